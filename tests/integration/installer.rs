//! The installer script, against a server that has files as a release has them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Serves files by their paths until the test process ends; gives the address.
fn serve(files: BTreeMap<String, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let files = Arc::new(files);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            let _ = lines.find(String::is_empty); // the headers
            let found = first.split(' ').nth(1).and_then(|path| files.get(path));
            let (status, body) = found.map_or(("404 Not Found", &[][..]), |body| ("200 OK", body));
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = (&stream).write_all(head.as_bytes());
            let _ = (&stream).write_all(body);
        }
    });
    address
}

fn target() -> String {
    let system = match std::env::consts::OS {
        "macos" => "apple-darwin",
        _ => "unknown-linux-musl",
    };
    format!("{}-{system}", std::env::consts::ARCH)
}

/// An archive with a program that says its version.
fn archive(folder: &Path) -> Vec<u8> {
    let program = folder.join("diffucoder");
    fs::write(&program, "#!/bin/sh\necho diffucoder 9.9.9\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let packed = folder.join("packed.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(&packed).arg("-C").arg(folder);
    assert!(tar.arg("diffucoder").status().unwrap().success());
    fs::read(packed).unwrap()
}

/// Runs the script as a user without anything of ours in the environment.
fn install(address: &str, home: &Path, variables: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/release/install.sh");
    let mut shell = Command::new("sh");
    shell.arg(script).env("HOME", home);
    for name in [
        "DIFFUCODER_BIN",
        "DIFFUCODER_VERSION",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ] {
        shell.env_remove(name);
    }
    shell.env("no_proxy", "127.0.0.1");
    shell
        .env("DIFFUCODER_RELEASES", address)
        .envs(variables.iter().copied());
    shell.output().unwrap()
}

#[test]
fn the_installer_checks_what_it_installs() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("diffucoder-{}.tar.gz", target());
    let archive = archive(folder.path());
    let sum: String = Sha256::digest(&archive)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let sums = format!("{}  other.zip\n{sum}  {name}\n", "0".repeat(64));
    let mut damaged = archive.clone();
    damaged[20] ^= 1;
    let mut files = BTreeMap::new();
    for (place, archive, sums) in [
        ("latest/download", &archive, &sums),
        ("download/v9.9.9", &archive, &sums),
        ("download/damaged", &damaged, &sums),
        ("download/unnamed", &archive, &"".to_string()),
    ] {
        files.insert(format!("/{place}/{name}"), archive.clone());
        files.insert(format!("/{place}/SHA256SUMS"), sums.clone().into_bytes());
    }
    let address = serve(files);
    let stderr = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let versions = ["v9.9.9", "9.9.9"].map(|version| [("DIFFUCODER_VERSION", version)]);
    for variables in [&[][..], &versions[0], &versions[1]] {
        let home = tempfile::tempdir_in(folder.path()).unwrap();
        let output = install(&address, home.path(), variables);
        let said = stderr(&output);
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{said}"
        );
        assert!(said.contains("installed diffucoder 9.9.9"), "{said}");
        assert!(said.contains("is not on your PATH"), "{said}");
        let run = Command::new(home.path().join(".local/bin/diffucoder"))
            .output()
            .unwrap();
        assert_eq!(run.stdout, b"diffucoder 9.9.9\n");
    }
    for (version, says) in [
        ("damaged", "is damaged: its SHA-256 is"),
        ("unnamed", "SHA256SUMS does not name"),
        ("v0.0.0", "cannot download"),
    ] {
        let home = tempfile::tempdir_in(folder.path()).unwrap();
        let output = install(&address, home.path(), &[("DIFFUCODER_VERSION", version)]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("error: ") && said.contains(says), "{said}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "{version}");
    }
    let home = tempfile::tempdir_in(folder.path()).unwrap();
    fs::create_dir_all(home.path().join(".local/bin/diffucoder")).unwrap();
    let output = install(&address, home.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("diffucoder is a folder"));
    let output = install("", folder.path(), &[]);
    assert!(stderr(&output).contains("does not know where releases are"));
}
