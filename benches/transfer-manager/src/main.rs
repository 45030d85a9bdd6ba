//! The AWS SDK's own transfer manager as a program, so that it can be measured beside others.
//!
//! `transfer-manager [--at-once N] BUCKET FILE...`: uploads the files under their names, N of them at once, with the
//! manager's own settings. Endpoint, credentials and trusted certificates come from the environment.

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;

use aws_sdk_s3_transfer_manager::io::InputStream;
use aws_sdk_s3_transfer_manager::{Client, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut at_once = 1;
    if arguments.next_if(|argument| argument == "--at-once").is_some() {
        at_once = arguments.next().ok_or("--at-once needs a number")?.parse()?;
    }
    let bucket = arguments.next().ok_or("usage: transfer-manager [--at-once N] BUCKET FILE...")?;
    let shared = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
    // A bucket cannot stand before an address.
    let s3 = aws_sdk_s3::config::Builder::from(&shared).force_path_style(true);
    let manager = Client::new(Config::builder().s3_config(s3).build());
    let mut under_way = VecDeque::new();
    for file in arguments {
        if under_way.len() >= at_once {
            join(under_way.pop_front()).await?;
        }
        let name = Path::new(&file).file_name().and_then(|name| name.to_str()).ok_or("a file without a name")?;
        let body = InputStream::from_path(&file)?;
        under_way.push_back(manager.upload().bucket(&bucket).key(name).body(body).initiate()?);
    }
    while !under_way.is_empty() {
        join(under_way.pop_front()).await?;
    }
    Ok(())
}

async fn join(
    upload: Option<aws_sdk_s3_transfer_manager::operation::upload::UploadHandle>,
) -> Result<(), Box<dyn Error>> {
    if let Some(upload) = upload {
        upload.join().await?;
    }
    Ok(())
}
