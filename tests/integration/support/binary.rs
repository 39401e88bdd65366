//! The program, as the tests run it.

use assert_cmd::Command;

/// The binary, cut off from the user's environment: no terminal, no Hub cache, no network.
pub fn diffucoder(args: &[&str]) -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("diffucoder");
    let nowhere = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/no-such-cache");
    command
        .args(args)
        .env("XDG_CONFIG_HOME", nowhere)
        .env("APPDATA", nowhere)
        .env("HF_HOME", nowhere)
        .env("HF_HUB_OFFLINE", "1");
    for name in [
        "COLUMNS",
        "HF_TOKEN",
        "HF_ENDPOINT",
        "HF_HUB_CACHE",
        "RAYON_NUM_THREADS",
    ] {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DIFFUCODER_") {
            command.env_remove(name);
        }
    }
    command
}
