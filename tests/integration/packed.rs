//! Packed weights that are kept on the disk.

use std::fs;
use std::path::{Path, PathBuf};

use crate::binary::diffucoder;
use crate::fixture;

/// The golden checkpoint, quantized.
fn quantized(folder: &Path, name: &str, format: &str) -> PathBuf {
    let path = folder.join(name);
    let model = fixture("golden/model");
    let args = ["quantize", "--to", format, "--force", "--model"];
    let done = diffucoder(&args)
        .args([&model, Path::new("-o"), &path])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    path
}

/// The text, and what is said.
fn generate(model: &Path, cache: Option<&Path>) -> (String, String) {
    let mut command = diffucoder(&[
        "generate", "--raw", "-n", "12", "--seed", "1", "-p", "def a", "--model",
    ]);
    command.arg(model);
    if let Some(cache) = cache {
        command
            .arg("--cache-packed")
            .env("XDG_CACHE_HOME", cache)
            .env("LOCALAPPDATA", cache);
    }
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let [text, said] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (text, said)
}

/// What the cache holds.
fn kept(cache: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(cache.join("diffucoder/packed")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn the_next_process_maps_what_one_has_packed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let model = quantized(folder.path(), "m.gguf", "q8_0");
    let (expected, _) = generate(&model, None);
    assert_eq!(generate(&model, Some(&cache)).0, expected);
    let [packed] = &*kept(&cache) else {
        panic!("one file is kept");
    };
    // It is read: other quants in it are another text, and nobody writes it again.
    let mut changed = fs::read(packed).unwrap();
    let data = 64..changed.len() / 2;
    changed[data].iter_mut().for_each(|byte| *byte ^= 0x40);
    fs::write(packed, &changed).unwrap();
    assert_ne!(generate(&model, Some(&cache)).0, expected);
    assert_eq!(fs::read(packed).unwrap(), changed);

    // Half a file is none, and is written anew.
    fs::write(packed, &changed[..changed.len() / 2]).unwrap();
    assert_eq!(
        generate(&model, Some(&cache)),
        (expected.clone(), String::new())
    );
    assert_eq!(generate(&model, Some(&cache)).0, expected);

    // So is that of another file of the same name.
    quantized(folder.path(), "m.gguf", "q4_0");
    let (other, _) = generate(&model, None);
    for _ in 0..2 {
        assert_eq!(generate(&model, Some(&cache)).0, other);
    }
    assert_eq!(kept(&cache), std::slice::from_ref(packed));
}

/// The text does not depend on whether it can be kept.
#[test]
fn what_cannot_be_kept_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let model = quantized(folder.path(), "m.gguf", "q8_0");
    let no_folder = folder.path().join("file");
    fs::write(&no_folder, "").unwrap();
    let (text, said) = generate(&model, Some(&no_folder));
    assert_eq!(text, generate(&model, None).0);
    assert!(
        said.starts_with("note: the packed weights are not kept: cannot write "),
        "{said}"
    );
}
