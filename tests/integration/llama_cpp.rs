//! Files that llama.cpp's own converter made of the golden checkpoints, and models as they were
//! written by `quantize`.

use candle_core::DType;
use diffucoder::chat::Message;
use diffucoder::hub::{HubOptions, ModelSpec};
use diffucoder::model::Target;
use diffucoder::package::{Package, Prompt};
use diffucoder::session::Session;
use diffucoder::tokenizer::TokenRole;
use std::collections::BTreeSet;
use std::path::Path;

use crate::binary::diffucoder;
use crate::fixture;
use crate::golden_set::{assert_close, forwards, on_tensors, session};

fn open(file: &Path) -> Result<Session, diffucoder::Error> {
    let spec = ModelSpec::Local(file.into());
    let package = Package::open(&spec, &HubOptions::new("no-such-cache"), &mut ())?;
    Ok(Session::new(package, Target::cpu(DType::F32)))
}

/// `llama` keeps the rows of q and k in another order than the checkpoint. Made by
/// `convert_hf_to_gguf.py --outtype f32` of golden-stable-diffcoder, called LlamaForCausalLM.
#[test]
fn a_file_called_llama_is_read_in_the_order_of_the_checkpoint() {
    let set = "golden-stable-diffcoder";
    let file = fixture("gguf/stable-diffcoder-llama.gguf");
    let mut found = open(&file).unwrap();
    let original = session(set);
    let families = [&found, &original].map(|session| session.package().config.family);
    assert_eq!(families[0], families[1]);
    assert_eq!(found.package().mask_id, original.package().mask_id);
    let model = found.load(&mut (), &mut |_, _| ()).unwrap();
    for (ids, expected) in forwards(set) {
        assert_close(&model.head_output(&ids).unwrap(), &expected, set);
    }
    // The layers are those of many models, and only the names tell that this one is none of them.
    let folder = tempfile::tempdir().unwrap();
    let unnamed = folder.path().join("model.gguf");
    let name = b"Stable Diffcoder";
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(name.len()).position(|window| window == name);
    bytes[at.unwrap()..][..name.len()].copy_from_slice(b"Some Other Model");
    std::fs::write(&unnamed, bytes).unwrap();
    let error = open(&unnamed).err().unwrap();
    let said = format!("{:#}", anyhow::Error::from(error));
    assert!(
        said.contains("llama is that of autoregressive models"),
        "{said}"
    );
}

/// Made by `convert_hf_to_gguf.py --outtype f32` of golden-llada, its tokenizer called bailingmoe,
/// as that of LLaDA-8B is: the converter knows it by what it makes of a text.
#[test]
fn the_converter_s_llada_is_that_of_the_checkpoint() {
    let set = "golden-llada";
    let mut found = open(&fixture("gguf/llada-llama-cpp.gguf")).unwrap();
    let original = session(set);
    let [ours, theirs] = [&found, &original].map(|session| session.package());
    assert_eq!(ours.config.family, theirs.config.family);
    assert_eq!(ours.config.shift_logits, theirs.config.shift_logits);
    assert_eq!(ours.mask_id, theirs.mask_id);
    assert_eq!(ours.stop_ids, theirs.stop_ids);
    let mut tensors = on_tensors(&found);
    let native = found.load(&mut (), &mut |_, _| ()).unwrap();
    for (ids, expected) in forwards(set) {
        for found in [native.head_output(&ids), tensors.head_output(&ids)] {
            assert_close(&found.unwrap(), &expected, set);
        }
    }
    // The same with experts is another network.
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("model.gguf");
    let mut bytes = std::fs::read(fixture("gguf/llada-llama-cpp.gguf")).unwrap();
    let name = b"\x05\0\0\0\0\0\0\0llada";
    let at = bytes.windows(name.len()).position(|window| window == name);
    let at = at.unwrap();
    let with_experts = b"\x09\0\0\0\0\0\0\0llada-moe";
    bytes.splice(at..at + name.len(), with_experts.iter().copied());
    std::fs::write(&other, bytes).unwrap();
    let error = anyhow::Error::from(open(&other).err().unwrap());
    let said = format!("{error:#}");
    assert!(said.contains("\"llada-moe\" is not supported"), "{said}");
}

/// What is written of each family loads as what it was.
#[test]
fn each_family_is_known_from_its_quantized_file() {
    let folder = tempfile::tempdir().unwrap();
    for set in [
        "golden",
        "golden-coda",
        "golden-dllm-qwen2",
        "golden-dllm-qwen3",
        "golden-dreamon",
        "golden-fast-dllm-v2",
        "golden-llada",
        "golden-opendcoder",
        "golden-sdar",
        "golden-stable-diffcoder",
    ] {
        let model = fixture(&format!("{set}/model"));
        let file = folder.path().join(format!("{set}.gguf"));
        let mut command = diffucoder(&[]);
        command
            .args(["quantize", "--to=q8_0", "--model"])
            .arg(&model);
        command.arg("-o").arg(&file).assert().success();
        let (found, original) = (open(&file).unwrap(), session(set));
        let (found, original) = (found.package(), original.package());
        assert_eq!(found.config.family, original.config.family, "{set}");
        assert_eq!(found.config.attention, original.config.attention, "{set}");
        assert_eq!(found.mask_id, original.mask_id, "{set}");
        let sorted = |ids: &[u32]| BTreeSet::from_iter(ids.iter().copied());
        assert_eq!(sorted(&found.stop_ids), sorted(&original.stop_ids), "{set}");
        for role in [TokenRole::Bos, TokenRole::Eos, TokenRole::Pad] {
            let [ours, theirs] =
                [found, original].map(|package| package.tokenizer.special_id(role));
            assert_eq!(ours, theirs, "{set} {role:?}");
        }
        let messages = ["system", "user"].map(|role| Message::new(role, "Add two numbers."));
        let prompt = Prompt::Conversation {
            messages: &messages,
            answer: "def ",
        };
        let [ours, theirs] = [found, original].map(|package| package.encode(&prompt).unwrap());
        assert_eq!(ours, theirs, "{set}");
        assert_eq!(found.infilling, original.infilling, "{set}");
    }
}
