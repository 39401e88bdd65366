//! config.json, and an adapter's configuration for it.
#![no_main]

use diffucoder::model::config::Config;
use diffucoder::model::lora::Adapter;
use diffucoder::weights::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let (config, adapter) = (parts.next().unwrap_or_default(), parts.next());
    if let Ok(config) = Config::from_json(config) {
        let _ = (config.parameters(), config.multiplied_weights());
        if let Some(adapter) = adapter
            && config.num_hidden_layers < 8
        {
            let _ = Adapter::open(adapter, Checkpoint::empty(), &config);
        }
    }
});
