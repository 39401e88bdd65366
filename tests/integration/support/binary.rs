//! The program, as the tests run it: cut off from the user's environment. No settings, no cache of
//! models, no network.

use std::ffi::{OsStr, OsString};
use std::process::Command;

/// What a child's environment has instead of the user's; `None` is nothing.
pub fn isolation() -> impl Iterator<Item = (OsString, Option<&'static OsStr>)> {
    const NOWHERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/no-such-cache");
    const REMOVED: [&str; 13] = [
        "ALL_PROXY",
        "APPDATA",
        "CLICOLOR_FORCE",
        "COLUMNS",
        "CURL_CA_BUNDLE",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_COLOR",
        "RAYON_NUM_THREADS",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "XDG_CONFIG_HOME",
    ];
    const FAMILIES: [&str; 4] = ["DIFFUCODER_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_"];
    let is_removed = |(name, _): &(OsString, OsString)| {
        let name = name.to_string_lossy().to_uppercase();
        REMOVED.contains(&&*name) || FAMILIES.iter().any(|family| name.starts_with(family))
    };
    let removed = std::env::vars_os().filter(is_removed);
    let set = [
        ("XDG_CONFIG_HOME", NOWHERE),
        ("APPDATA", NOWHERE),
        ("HF_HOME", NOWHERE),
        ("HF_HUB_OFFLINE", "1"),
    ];
    let set = set.map(|(name, value)| (name.into(), Some(OsStr::new(value))));
    removed.map(|(name, _)| (name, None)).chain(set)
}

/// A command with such an environment.
pub fn isolated(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, value) in isolation() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The program as a child that can be talked to, and signalled.
pub fn program(args: &[&str]) -> Command {
    let mut command = isolated(assert_cmd::cargo::cargo_bin!("diffucoder"));
    command.args(args);
    command
}

/// The program, to its end.
pub fn diffucoder(args: &[&str]) -> assert_cmd::Command {
    assert_cmd::Command::from_std(program(args))
}
