//! Shards and their index: all but the last line of the input is the first shard.
#![no_main]

use diffucoder::weights::{Bytes, Checkpoint, Index};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().rposition(|&byte| byte == b'\n');
    let (shard, index) = bytes.split_at(end.unwrap_or(bytes.len()));
    let index = Index::from_json("index", index.get(1..).unwrap_or_default()).ok();
    let names = index.as_ref().map_or(vec!["model.safetensors".to_string()], Index::shards);
    let shards = names.into_iter().take(4);
    let files = shards.map(|name| (name, Bytes::Owned(shard.to_vec())));
    if let Ok(mut checkpoint) = Checkpoint::open(files.collect(), index.as_ref()) {
        let names: Vec<String> = checkpoint.names().map(str::to_string).collect();
        for name in names {
            let shape = checkpoint.shape(&name).unwrap_or_default();
            if let Ok(stored) = checkpoint.take_stored(&name, &shape) {
                let _ = (stored.bytes().len(), stored.part(0..1));
            }
        }
        let _ = checkpoint.finish();
    }
});
