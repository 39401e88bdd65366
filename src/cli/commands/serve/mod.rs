//! `diffucoder serve`: the session over HTTP, for editors and for what speaks OpenAI's API.
//!
//! From the top: [`http`] has the connections, [`router`] what is at each path, [`access`] who is
//! let in; [`api`] are the protocols, which read what is asked and say in their form ([`reply`])
//! what was written. All this is on one thread, which only waits. Behind a bounded queue others
//! denoise: that is [`work`], which knows no HTTP.

mod access;
mod api;
mod app;
mod http;
mod log;
mod reply;
mod response;
mod router;
pub(super) mod work;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, thread};

use anyhow::Context;
use diffucoder::session::Session;
use hyper::header::HeaderValue;

use crate::cli::args::compute::ComputeArgs;
use crate::cli::args::decoding::ReuseArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::args::values::{at_least_one, zero_or_above};
use crate::cli::terminal::ui::Ui;
use crate::cli::threads;
use crate::cli::usage::UsageError;
use access::{Access, Key};
use app::{App, ModelInfo};
use log::Log;
use work::{Queue, Worker};

/// Flags of `serve`.
#[derive(clap::Args)]
#[command(mut_arg("max_new_tokens", |arg| arg.help(
    "Most tokens of a text behind which nothing follows, where a request does not say; auto is as \
     many as the context holds"
)))]
#[command(after_long_help = "Endpoints:
  POST /infill                llama-server's, for llama.vim and llama.vscode
  POST /completion            its plain one, with markers as /v1/completions
  POST /v1/completions        with `suffix`, or markers of holes in `prompt`; up to 32 prompts
  POST /v1/fim/completions    the same in Mistral's form
  POST /v1/chat/completions   a conversation
  POST /api/generate          ollama's, as are /api/chat, tags, ps, show and version
  GET  /v1/models, /props, /metrics (Prometheus); /health (needs no key)
  GET  /                      a page to try it on, with holes (no key either)

All of the first six stream. The most tokens of a text are `max_tokens`, `n_predict` or
`num_predict`, below 0 as many as the context holds; a request without them gets what -n
says (OpenAI's API has 16 there, llama-server no bound). A text between two others has up
to 32 tokens all the same (8 with tiny, 64 with DreamOn).

When `t_max_predict_ms` is over, the whole lines that are decided are the answer.

Editors, with `diffucoder serve` at its usual port:
  llama.vim     let g:llama_config = {'endpoint_fim': 'http://127.0.0.1:8012/infill'}
  llama.vscode  \"llama-vscode.endpoint\": \"http://127.0.0.1:8012\"
  Continue      models: [{name: diffucoder, provider: openai, model: diffucoder,
                apiBase: http://127.0.0.1:8012/v1, roles: [autocomplete]}]
  Zed           \"edit_predictions\": {\"provider\": \"open_ai_compatible_api\",
                \"open_ai_compatible_api\": {\"api_url\": \"http://127.0.0.1:8012/v1/completions\",
                \"model\": \"diffucoder\", \"prompt_format\": \"qwen\", \"max_output_tokens\": 64}}
  minuet        provider = 'openai_fim_compatible', provider_options = {openai_fim_compatible =
                {end_point = 'http://127.0.0.1:8012/v1/completions', api_key = 'TERM',
                name = 'diffucoder', model = 'diffucoder', stream = true}}
  Tabby         [model.completion.http]
                kind = \"openai/completion\"
                model_name = \"diffucoder\"
                api_endpoint = \"http://127.0.0.1:8012/v1\"
  aider         OPENAI_API_BASE=http://127.0.0.1:8012/v1 OPENAI_API_KEY=none
                aider --model openai/diffucoder

SIGTERM and Ctrl-C end it once the requests that it has are answered; the second one at once.

Exit codes: 0 ended, 1 failed, 2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    reuse: ReuseArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Server")]
struct ServerArgs {
    /// Address to listen at. Others than this machine's own need --api-key-file, or --no-key
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen at; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8012, value_parser = port)]
    port: u16,
    /// Keys, one a line, of which every request has to bring one (`Authorization: Bearer KEY`)
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Listen to other machines without a key
    #[arg(long, conflicts_with = "api_key_file")]
    no_key: bool,
    /// Requests that are denoised at the same time, over one copy of the weights
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = at_least_one)]
    parallel: usize,
    /// Requests that may wait; to more of them the answer is 429
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = zero_or_above::<usize>)]
    queue: usize,
    /// Let pages of this origin (https://example.org) ask, and read the answers
    #[arg(long, value_name = "ORIGIN")]
    cors: Option<String>,
}

fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| format!("must be a whole number, at most {}", u16::MAX))
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    args.sampling.check()?;
    let server = &args.server;
    let keys = server.keys()?;
    let cors = server.origin()?;
    let (listener, is_local) = server.listen(!keys.is_empty())?;
    let compute = match server.parallel {
        1 => &args.compute,
        _ => &args.compute.of_several(),
    };
    let mut engine = compute.open(&args.model, ui)?;
    let queue = Queue::new(server.parallel.saturating_add(server.queue));
    let reuses_context = args.reuse.reuse_context;
    let worker = Worker::new(&queue, &args.sampling, &engine.session, reuses_context)?;
    engine.load(ui)?;
    let session = engine.session;
    let context = session.context(args.sampling.context());
    let app = App {
        log: Log::new(Ui::new(ui.is_quiet())),
        queue: Arc::clone(&queue),
        access: Access {
            only_host: (is_local && keys.is_empty()).then(|| server.host.clone()),
            keys,
            cors,
        },
        model: ModelInfo::new(&args.model, &session, context),
        parallel: server.parallel,
        metrics: Arc::clone(&worker.metrics),
    };
    let app = Arc::new(app);
    thread::scope(|scope| {
        let begin = |session: Session| {
            let begun = thread::Builder::new().spawn_scoped(scope, || worker.run(session));
            begun.map(drop).context(threads::NONE)
        };
        let others = (1..server.parallel).try_for_each(|_| begin(session.beside()));
        let all = others.and_then(|()| begin(session));
        let ended = all.and_then(|()| http::serve(listener, &app));
        queue.close(); // or those that have begun would wait for ever
        ended
    })
}

impl ServerArgs {
    fn keys(&self) -> anyhow::Result<Vec<Key>> {
        let Some(file) = &self.api_key_file else {
            return Ok(Vec::new());
        };
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read the keys in {}", file.display()))?;
        let keys: Vec<_> = text
            .trim_start_matches('\u{feff}') // a byte order mark
            .lines()
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .collect();
        if keys.is_empty() {
            return Err(self
                .about_keys(file, "has no key", "write one key a line")
                .into());
        }
        if keys
            .iter()
            .any(|key| key.contains(|c: char| !c.is_ascii_graphic()))
        {
            let hint = "a header can bring letters, digits and signs of ASCII";
            return Err(self
                .about_keys(file, "has a key that no header can bring", hint)
                .into());
        }
        Ok(keys.into_iter().map(Key::new).collect())
    }

    fn about_keys(&self, file: &Path, what: &str, hint: &str) -> UsageError {
        let message = format!("--api-key-file {} {what}", file.display());
        UsageError::with_hint(message, hint).about(&["api-key-file"])
    }

    fn origin(&self) -> Result<Option<HeaderValue>, UsageError> {
        let Some(origin) = &self.cors else {
            return Ok(None);
        };
        let is_origin = origin == "*"
            || origin.split_once("://").is_some_and(|(scheme, host)| {
                !scheme.is_empty() && !host.is_empty() && !host.contains('/')
            });
        HeaderValue::from_str(origin)
            .ok()
            .filter(|_| is_origin)
            .map(Some)
            .ok_or_else(|| {
                let message = format!("--cors {origin} is no origin");
                UsageError::with_hint(message, "one is a scheme and a host: https://example.org")
                    .about(&["cors"])
            })
    }

    /// Takes the port, so that it is known to be free before a model is loaded. Says whether only
    /// this machine can reach it.
    fn listen(&self, has_keys: bool) -> anyhow::Result<(TcpListener, bool)> {
        let host = &*self.host;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']')); // of IPv6
        let addresses = (bare.unwrap_or(host), self.port)
            .to_socket_addrs()
            .with_context(|| format!("cannot find the address of --host {}", self.host))?;
        let addresses: Vec<_> = addresses.collect();
        let is_open = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
        let is_open = addresses.iter().any(is_open);
        if is_open && !has_keys && !self.no_key {
            return Err(UsageError::with_hint(
                format!(
                    "--host {} lets other machines in, and there is no key",
                    self.host
                ),
                "give keys with --api-key-file, or --no-key if everyone may compute here",
            )
            .about(&["host"])
            .into());
        }
        let listener = TcpListener::bind(&*addresses)
            .with_context(|| format!("cannot listen at {}:{}", self.host, self.port))?;
        listener.set_nonblocking(true)?;
        Ok((listener, !is_open))
    }
}
