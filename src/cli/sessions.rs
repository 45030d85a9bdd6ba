//! `tidegate sessions`.

use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::text::{one_line, session_state, table, time};
use crate::api::v1::{ListSessionsRequest, Session, SessionKind};

pub async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    let mut sessions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSessionsRequest { page_size: 0, page_token };
        let page = answer("list the sessions", client.sessions().list_sessions(unary(request)).await)?;
        sessions.extend(page.sessions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.show(
        || json!({ "sessions": sessions.iter().map(json::session).collect::<Vec<_>>() }),
        || {
            if sessions.is_empty() {
                return "no session: tidegate sign-in USERNAME".to_owned();
            }
            let head = ["SESSION", "USER", "STATE", "GROUPS", "CREDENTIALS UNTIL"];
            table(&head, &sessions.iter().map(row).collect::<Vec<_>>())
        },
    );
    Ok(())
}

fn row(session: &Session) -> Vec<String> {
    let until = time(session.credentials_expire_time.as_ref()).unwrap_or_else(|| "-".to_owned());
    let groups = if session.groups.is_empty() { "-".to_owned() } else { session.groups.join(",") };
    vec![session.name.clone(), user(session), session_state(session.state), one_line(&groups), until]
}

/// Who it is, also where nobody has given a name.
fn user(session: &Session) -> String {
    if session.kind() == SessionKind::Guest { "(guest)".to_owned() } else { one_line(&session.username) }
}

/// One session on one line.
pub fn signed_in(session: &Session) -> String {
    let groups = if session.groups.is_empty() { "no group".to_owned() } else { session.groups.join(", ") };
    let mut line =
        format!("{}  {}  {}  ({})", session.name, user(session), session_state(session.state), one_line(&groups));
    if !session.merged_from.is_empty() {
        line.push_str(&format!("  the guest's photos stay beneath {}", one_line(&session.merged_from)));
    }
    if !session.last_error.is_empty() {
        line.push_str(&format!("  last error: {}", one_line(&session.last_error)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_and_what_it_left_are_named() {
        let guest = Session { kind: SessionKind::Guest.into(), ..Session::default() };
        assert!(signed_in(&guest).contains("(guest)") && row(&guest)[1] == "(guest)");
        let user = Session { username: "ana\u{1b}[2J".into(), merged_from: "us-east-1:7".into(), ..Session::default() };
        let line = signed_in(&user);
        assert!(line.contains("us-east-1:7") && line.contains("ana") && !line.contains('\u{1b}'), "{line:?}");
    }
}
