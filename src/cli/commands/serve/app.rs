//! What all requests share.

use std::path::Path;
use std::sync::Arc;

use diffucoder::diffusion::Attention;
use diffucoder::session::Session;
use jiff::Timestamp;

use super::access::Access;
use super::log::Log;
use super::work::{Metrics, Queue};
use crate::cli::args::model::ModelArgs;

/// What all requests share.
pub struct App {
    pub log: Log,
    pub queue: Arc<Queue>,
    pub access: Access,
    pub model: ModelInfo,
    pub metrics: Arc<Metrics>,
    /// Requests that are denoised at the same time.
    pub parallel: usize,
}

/// What requests need to know of the model.
pub struct ModelInfo {
    pub id: String,
    /// Tokens that it is shown.
    pub context: usize,
    pub parameters: usize,
    pub is_chat: bool,
    /// Whether it fills holes that text follows.
    pub fills: bool,
    pub opened: Timestamp,
}

impl ModelInfo {
    /// The id is what was typed, without the folder that a file lies in.
    pub fn new(args: &ModelArgs, session: &Session, context: usize) -> Self {
        let name = args.name().to_string_lossy();
        let is_path = Path::new(args.name()).exists();
        let last = name.trim_end_matches('/').rsplit(['/', '\\']).next();
        let package = session.package();
        Self {
            id: match last {
                Some(last) if is_path => last.to_string(),
                _ => name.to_string(),
            },
            context,
            parameters: package.config.parameters(),
            is_chat: package.is_chat(),
            fills: package.config.attention == Attention::Full,
            opened: Timestamp::now(),
        }
    }
}
