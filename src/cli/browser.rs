//! Opens an address in the user's browser, where there is one to see it in.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

/// How long an opener may take to say that it cannot.
const OPENER_WAIT: Duration = Duration::from_secs(2);

/// Opens `url`; false where there is no screen, or no program that opens it.
pub async fn open(url: &str) -> bool {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let has_screen = variable("DISPLAY").or(variable("WAYLAND_DISPLAY")).is_some();
    let named = variable("BROWSER");
    let Some(program) = opener(named.as_deref(), has_screen) else { return false };
    let mut command = std::process::Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A Ctrl-C here is not meant for the browser.
    command.process_group(0);
    let Ok(mut opened) = tokio::process::Command::from(command).spawn() else { return false };
    match tokio::time::timeout(OPENER_WAIT, opened.wait()).await {
        Ok(Ok(status)) => status.success(),
        Ok(Err(_)) => false,
        // It runs: the browser itself.
        Err(_) => true,
    }
}

/// `$BROWSER` (the first of its list) goes first; without a screen nothing else helps.
fn opener(browser: Option<&str>, has_screen: bool) -> Option<&str> {
    let named = browser.and_then(|list| list.split(':').find(|program| !program.is_empty()));
    named.or_else(|| has_screen.then_some("xdg-open"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_opened_only_where_somebody_sees_it() {
        assert_eq!(opener(None, false), None);
        assert_eq!(opener(None, true), Some("xdg-open"));
        assert_eq!(opener(Some(":firefox:lynx"), false), Some("firefox"));
    }
}
