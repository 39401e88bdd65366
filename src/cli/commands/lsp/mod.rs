//! `diffucoder lsp`: the session for editors that speak the Language Server Protocol, on stdin and
//! stdout.
//!
//! One thread reads ([`message`]), one denoises, which is a worker of `serve`, and this one has the
//! documents ([`document`]), answers and writes ([`server`]). Requests wait in the queue of
//! `serve`, in which the newest of a document takes the place of the one before. The types of the
//! protocol that are needed fit on two pages; the crate that has all of them has ten thousand
//! lines.

mod document;
mod message;
mod params;
mod server;

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{anyhow, bail};
use diffucoder::diffusion::Attention;
use serde_json::json;

use crate::cli::args::compute::ComputeArgs;
use crate::cli::args::decoding::ReuseArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::commands::serve::work::{Queue, Refusal, Worker};
use crate::cli::terminal::ui::{Ui, Written};
use crate::cli::threads;
use message::Id;
use server::{Next, Server};

/// Requests that wait and run; each is of another document.
const MOST_REQUESTS: usize = 32;
/// Messages that are read before the first of them is answered.
const MOST_INPUTS: usize = 16;

/// Flags of `lsp`.
#[derive(clap::Args)]
#[command(mut_arg("max_new_tokens", |arg| arg.default_value("64").help(
    "Most tokens of a suggestion behind which nothing follows; auto is as many as the context holds"
)))]
#[command(
    after_long_help = "What it has: textDocument/inlineCompletion (protocol 3.18) and, for
editors that do not ask for it, the same suggestion in textDocument/completion.
A model that cannot fill holes goes on with what stands before the cursor. While
somebody types, what is decided in whole lines after a second is the answer.

Editors:
  Neovim 0.12, in init.lua
    vim.lsp.config('diffucoder', {
      cmd = {'diffucoder', 'lsp', '--model', 'tiny'}, filetypes = {'python'}})
    vim.lsp.enable('diffucoder')
    vim.lsp.inline_completion.enable()
    vim.keymap.set('i', '<Tab>', function()
      if not vim.lsp.inline_completion.get() then return '<Tab>' end
    end, {expr = true})
  Neovim 0.11: the first two, and suggestions in a list (Ctrl-X Ctrl-O), of which
  it takes the first word alone; Ctrl-Y takes all of one with
    vim.o.completeopt = 'menuone,noinsert'
    vim.api.nvim_create_autocmd('CompleteDone', {callback = function()
      local done = vim.v.completed_item
      local data = vim.tbl_get(done, 'user_data', 'nvim', 'lsp')
      local item = data and data.completion_item
      if not item or item.detail ~= 'diffucoder' or done.word == '' then return end
      local rest = item.textEdit.newText:sub(#done.word + 1)
      vim.schedule(function()
        local lines = vim.split(rest:gsub('\\r\\n', '\\n'), '\\n')
        vim.api.nvim_put(lines, 'c', false, true)
      end)
    end})
  Emacs with lsp-mode
    (lsp-register-client (make-lsp-client
      :server-id 'diffucoder :major-modes '(python-mode) :add-on? t
      :new-connection (lsp-stdio-connection
        '(\"diffucoder\" \"lsp\" \"--model\" \"tiny\"))))
    (setq lsp-inline-completion-enable t)
  Emacs with eglot, in a list
    (add-to-list 'eglot-server-programs
      '(python-mode \"diffucoder\" \"lsp\" \"--model\" \"tiny\"))
  Helix, in a list (Ctrl-x), in languages.toml
    [language-server.diffucoder]
    command = \"diffucoder\"
    args = [\"lsp\", \"--model\", \"tiny\"]
    [[language]]
    name = \"python\"
    language-servers = [\"pylsp\", \"diffucoder\"]
  VS Code and Zed start the language servers of their extensions only:
  `diffucoder serve --help` has what they need.

Exit codes: 0 ended as the protocol says, 1 failed or ended otherwise, 2 wrong usage."
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    reuse: ReuseArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// What the thread that answers waits for.
pub enum Input {
    Message(Vec<u8>),
    /// No more messages, and why if that is wrong.
    End(anyhow::Result<()>),
    /// The text of a request, or why there is none.
    Answered(Id, Result<String, Refusal>),
    /// The model cannot be loaded.
    Failed(anyhow::Error),
}

/// Runs until the client says that it is enough.
pub fn run(args: Box<Args>, ui: &Ui) -> anyhow::Result<()> {
    let args: &'static Args = Box::leak(args); // threads that compute do not outlive the program
    args.sampling.check()?;
    let mut engine = args.compute.open(&args.model, ui)?;
    let queue = Queue::new(MOST_REQUESTS);
    let fills = engine.session.package().config.attention == Attention::Full;
    let reuses_context = args.reuse.reuse_context;
    let worker = Worker::new(&queue, &args.sampling, &engine.session, reuses_context)?;
    let (sender, inputs) = sync_channel(MOST_INPUTS);
    let mut server = Server::new(queue, sender.clone(), fills);
    let (failed, loading) = (sender.clone(), Ui::new(ui.is_quiet()));
    // Editors wait only so long for the answer to the first request: the model is loaded meanwhile.
    threads::start(move || match engine.load(&loading) {
        Ok(()) => worker.run(engine.session),
        Err(error) => drop(failed.send(Input::Failed(error))),
    })?;
    threads::start(move || read(&sender))?;
    let mut failed = None;
    loop {
        let next = match inputs.recv()? {
            Input::Message(body) => server.on_message(&body),
            Input::Answered(id, answer) => server.on_answer(&id, answer),
            Input::End(end) => {
                let closed = || anyhow!("stdin was closed before `exit`");
                return end.and(Err(failed.unwrap_or_else(closed)));
            }
            Input::Failed(error) => {
                failed = Some(error);
                Next::Nothing
            }
        };
        match next {
            Next::Nothing => {}
            Next::Exit {
                was_shut_down: true,
            } => return Ok(()),
            Next::Exit { .. } => bail!("the client sent `exit` without `shutdown`"),
            Next::Say(message) => {
                if ui.piece(&message::framed(&message))? == Written::Closed {
                    bail!("the client does not read what it asked for");
                }
            }
        }
        // Until `initialize` is answered a client takes no message that it did not ask for.
        if let Some(error) = failed.take_if(|_| server.is_initialized()) {
            let message = format!("diffucoder: {error:#}");
            let params = json!({"type": 1, "message": message}); // an error
            let show = json!({
                "jsonrpc": "2.0", "method": "window/showMessage", "params": params,
            });
            ui.piece(&message::framed(&show))?;
            return Err(error);
        }
    }
}

/// Passes messages on until there are no more.
fn read(inputs: &SyncSender<Input>) {
    let mut stdin = io::stdin().lock();
    loop {
        let input = match message::read(&mut stdin) {
            Ok(Some(body)) => Input::Message(body),
            Ok(None) => Input::End(Ok(())),
            Err(error) => Input::End(Err(error)),
        };
        let is_end = matches!(input, Input::End(_));
        if inputs.send(input).is_err() || is_end {
            return;
        }
    }
}
