//! The start-up message of the local cloud: what runs, where, and how to point tools at it.

use std::fmt::Write as _;

use crate::local_cloud::LocalCloud;

/// The message, in plain text, some lines long. It contains the administrator's keys, which are no secret: whoever
/// reaches the local cloud may do everything anyway.
pub fn message(cloud: &LocalCloud) -> String {
    let mut text = String::new();
    let url = cloud.url();
    let (access_key_id, secret_access_key) = cloud.administrator().expose();
    let seed = cloud.seed();
    let _ = writeln!(text, "Local cloud at {url} (account {}, {})", seed.account_id, seed.region);
    for pool in &seed.user_pools {
        let _ = writeln!(text, "  user pool      {}  {}", pool.id, pool.name);
        for client in &pool.clients {
            let _ = writeln!(text, "  app client     {}  {}", client.id, client.name);
        }
    }
    for pool in &seed.identity_pools {
        let _ = writeln!(text, "  identity pool  {}  {}", pool.id, pool.name);
    }
    for bucket in &seed.buckets {
        let _ = writeln!(text, "  bucket         s3://{}", bucket.name);
    }
    for role in &seed.roles {
        let _ = writeln!(text, "  role           {}", role.arn);
    }
    let _ = writeln!(text, "  state          {}", cloud.data_dir().display());
    if !seed.unknown_resources.is_empty() {
        let _ = writeln!(text, "\nNot rehearsed (resource types that the local cloud does not know):");
        for resource in &seed.unknown_resources {
            let _ = writeln!(text, "  {resource}");
        }
    }
    let _ = writeln!(text, "\nPoint the AWS CLI or any SDK at it:");
    // Old SDKs and the AWS CLI's first version know only the second name of the region.
    let _ = writeln!(text, "  export AWS_ENDPOINT_URL={url} AWS_REGION={0} AWS_DEFAULT_REGION={0}", seed.region);
    let _ = writeln!(text, "  export AWS_ACCESS_KEY_ID={access_key_id} AWS_SECRET_ACCESS_KEY={secret_access_key}");
    if let Some(bucket) = seed.buckets.first() {
        let _ = writeln!(text, "  aws s3 ls s3://{}", bucket.name);
    }
    let _ = writeln!(text, "(SDKs address buckets path style: set it where your SDK does not find out by itself.)");
    let clients = seed.user_pools.iter().flat_map(|pool| &pool.clients);
    if let Some((client, callback)) = clients.filter_map(|client| Some((client, client.callback_urls.first()?))).next()
    {
        let _ =
            writeln!(text, "\nSign-in page (password, and stand-ins for Google and Apple); it ends at CallbackUrls:");
        let _ = writeln!(
            text,
            "  {url}/login?client_id={}&response_type=code&scope=openid+email&redirect_uri={callback}",
            client.id
        );
    }
    let _ = writeln!(text, "\nMailed codes:    curl {url}/_tidegate/outbox");
    let _ = writeln!(text, "Who asked what:  curl {url}/_tidegate/requests");
    let _ = writeln!(text, "Make it fail:    curl -X POST {url}/_tidegate/faults -d \\");
    let _ = writeln!(
        text,
        "  '{{\"operation\":\"s3:UploadPart\",\"next\":3,\"effect\":{{\"kind\":\"error\",\"status\":503,\"code\":\"SlowDown\"}}}}'"
    );
    text
}
