//! The local cloud's own pages beneath `/_tidegate/`: outbox, counters, requests, faults, outputs, health.

use http::Method;
use serde_json::{Value, json};

use super::answer::{Reply, page};
use super::dispatch::Services;
use crate::local_cloud::faults::{Plan, Rule};
use crate::local_cloud::s3::decode;

impl Services {
    /// Answers a page. These are for the person or the test that runs the cloud, so nothing is signed; what comes from
    /// a web page of another origin is refused.
    pub(super) fn admin(&self, method: &Method, path: &str, query: Option<&str>, foreign: bool, body: &[u8]) -> Reply {
        if foreign {
            return page(403, &json!({"error": "web pages may not use the local cloud's own pages"}));
        }
        match (path, method.as_str()) {
            ("health", "GET") => page(200, &json!({"status": "ok"})),
            ("outbox", "GET") => {
                let to = parameter(query, "to");
                let messages = serde_json::to_value(self.user_pools.outbox()).unwrap_or_default();
                let messages: Vec<Value> = messages
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|message| to.as_ref().is_none_or(|to| message["to"] == to.as_str()))
                    .cloned()
                    .collect();
                page(200, &json!({"messages": messages}))
            }
            ("counters", "GET") => page(200, &json!(self.site.counters.call_counts())),
            ("counters", "DELETE") => {
                self.site.counters.reset();
                page(200, &json!({}))
            }
            ("requests", "GET") => {
                let after = parameter(query, "after").and_then(|after| after.parse().ok()).unwrap_or(0);
                let operation = parameter(query, "operation");
                let mut requests = self.requests.after(after);
                requests.retain(|record| operation.as_ref().is_none_or(|wanted| record.operation == *wanted));
                page(200, &json!({"requests": requests}))
            }
            ("outputs", "GET") => page(200, &json!(self.outputs)),
            ("faults", "GET") => page(200, &json!(self.faults.plan())),
            ("faults", "PUT") => match serde_json::from_slice::<Plan>(body) {
                Ok(plan) => self.changed(self.faults.replace(plan).map_err(|error| error.to_string())),
                Err(error) => self.changed(Err(error.to_string())),
            },
            ("faults", "POST") => match serde_json::from_slice::<Rule>(body) {
                Ok(rule) => self.changed(self.faults.add(rule).map_err(|error| error.to_string())),
                Err(error) => self.changed(Err(error.to_string())),
            },
            ("faults", "DELETE") => {
                self.faults.clear();
                self.changed(Ok(()))
            }
            ("expire-sessions", "POST") => {
                self.sts.expire_sessions();
                page(200, &json!({}))
            }
            ("health" | "outbox" | "counters" | "requests" | "outputs" | "faults" | "expire-sessions", _) => {
                page(405, &json!({"error": format!("{method} is not for this page")}))
            }
            _ => page(
                404,
                &json!({
                    "error": format!("there is no page {path}"),
                    "pages": ["health", "outbox", "counters", "requests", "outputs", "faults", "expire-sessions"],
                }),
            ),
        }
    }

    fn changed(&self, result: Result<(), String>) -> Reply {
        match result {
            Ok(()) => page(200, &json!(self.faults.plan())),
            Err(error) => page(400, &json!({"error": error})),
        }
    }
}

fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| decode(&value.replace('+', " ")))
}
