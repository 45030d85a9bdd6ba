//! Compiles `proto/` to Rust. protox parses the files, so no `protoc` needs to be installed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 5] = [
    "tidegate/v1/account.proto",
    "tidegate/v1/credential.proto",
    "tidegate/v1/gateway.proto",
    "tidegate/v1/session.proto",
    "tidegate/v1/upload.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("tidegate_descriptor.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    // The codec asks a message for its name.
    config.enable_type_names();
    tonic_prost_build::configure()
        // Chunks of photos are passed on without a copy.
        .bytes(".tidegate.v1.UploadRequest.chunk")
        .codec_path("crate::api::strict::StrictCodec")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
