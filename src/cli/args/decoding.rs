//! How a canvas is taken in parts: the flags, and the [`Decoding`] they make of a mode's.

use diffucoder::diffusion::{Cache, Decoding, Far, FirstToken, Mode, Refresh, Rule, usual_window};

use crate::cli::args::values::{at_least_one, one_of, share, zero_or_above, zero_or_more};

/// How fast, and what it may cost.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Decoding")]
pub(super) struct DecodingArgs {
    /// Sets the flags below together, to what `settings` of --json shows [default: what suits the
    /// weights, as `diffucoder models` says; balanced for relatives of DiffuCoder, and for LLaDA]
    #[arg(long, value_parser = one_of(&Mode::ALL, Mode::name, about_mode))]
    pub mode: Option<Mode>,
    /// Masks that are filled before the canvas behind them is: auto (12, as fast has; 32 on a GPU),
    /// a number, or full [default: the mode's, as of those that follow]
    #[arg(long, value_name = "N", value_parser = window)]
    pub window: Option<Window>,
    /// Masks that are seen behind the window: a number, or all
    #[arg(long, value_name = "N", value_parser = lookahead)]
    lookahead: Option<Given<usize>>,
    /// In a block-causal model, positions of a block that are filled before those behind them are
    /// [default: 8 of Fast-dLLM v2, all of others]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub sub_block: Option<usize>,
    /// What is seen behind the masks of --lookahead
    #[arg(long, value_parser = one_of(&Far::ALL, Far::name, about_far))]
    far: Option<Far>,
    /// What is not computed again at every step
    #[arg(long, value_parser = one_of(&Cache::ALL, Cache::name, about_cache))]
    cache: Option<Cache>,
    /// When what --cache keeps is computed again: window (at the start of each), a number of
    /// forwards, or never
    #[arg(long, value_name = "WHEN", value_parser = refresh)]
    refresh: Option<Refresh>,
    /// Where the first token of a window comes from, which a model of this kind predicts from the
    /// row before
    #[arg(long, value_parser = one_of(&FirstToken::ALL, FirstToken::name, about_first_token))]
    first_token: Option<FirstToken>,
    /// Reveal all tokens at least this probable at once, and the surest if there are none; off
    /// reveals a fixed number, as --steps, --tokens-per-step, --alg-temp and --algorithm origin do
    #[arg(long, value_name = "P", value_parser = threshold)]
    threshold: Option<Given<f32>>,
    /// What the threshold is held against
    #[arg(long, value_parser = one_of(&Rule::ALL, Rule::name, about_rule))]
    rule: Option<Rule>,
    /// Temperature of the probabilities that decide the order of the reveals; sampling takes those
    /// that tokens are drawn from
    #[arg(long, value_name = "T", value_parser = order_temperature)]
    order_temperature: Option<Given<f32>>,
    /// How many times each token is masked and predicted again once all are there, ending early
    /// where nothing changes [default: 0; with the built-in model 1 in holes between text, unless
    /// --exact]
    #[arg(long, value_name = "N", value_parser = zero_or_above::<usize>)]
    pub remask: Option<usize>,
    /// Where a model that makes holes longer and shorter (DreamOn) ends a hole, take that place out
    /// and not all masks of the hole behind it too: what its code on the Hub does unless told
    #[arg(long)]
    pub delete_one: bool,
}

/// What a process that stays keeps from one request to the next.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Decoding")]
pub struct ReuseArgs {
    /// Keep what was computed of the texts before and behind a hole for the next request, as far as
    /// their tokens are the same. A line in a file of 60 then takes a third of the time with the
    /// built-in model and a tenth with large ones; two thirds of the suggestions are others than without
    /// after 60 letters, and as many of them right. With block-causal models nothing changes, and
    /// it is always on
    #[arg(long, alias = "reuse-prefix")]
    pub reuse_context: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Window {
    Auto,
    Full,
    Masks(usize),
}

/// A number, or none, for which there is a word: all, off or sampling.
#[derive(Debug, Clone, Copy)]
struct Given<N>(Option<N>);

fn window(text: &str) -> Result<Window, String> {
    match text {
        "auto" => Ok(Window::Auto),
        "full" => Ok(Window::Full),
        _ => at_least_one(text)
            .map(Window::Masks)
            .map_err(|_| "expected auto, full or a number from 1 on".into()),
    }
}

fn lookahead(text: &str) -> Result<Given<usize>, String> {
    match text {
        "all" => Ok(Given(None)),
        _ => zero_or_above(text)
            .map(|n| Given(Some(n)))
            .map_err(|_| "expected all or a number".into()),
    }
}

fn refresh(text: &str) -> Result<Refresh, String> {
    match text {
        "window" => Ok(Refresh::Window),
        "never" => Ok(Refresh::Never),
        _ => at_least_one(text)
            .map(Refresh::Every)
            .map_err(|_| "expected window, never or a number from 1 on".into()),
    }
}

fn threshold(text: &str) -> Result<Given<f32>, String> {
    match text {
        "off" => Ok(Given(None)),
        _ => share(text)
            .map(|p| Given(Some(p)))
            .map_err(|_| "expected off or a number above 0 and at most 1".into()),
    }
}

fn order_temperature(text: &str) -> Result<Given<f32>, String> {
    match text {
        "sampling" => Ok(Given(None)),
        _ => match zero_or_more(text) {
            Ok(t) if t > 0.0 => Ok(Given(Some(t))),
            _ => Err("expected sampling or a number above 0".into()),
        },
    }
}

pub fn about_mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Exact => "The published sampler, step for step: the whole canvas, to its end",
        Mode::Balanced => {
            "Windows and a threshold, with masks behind the window seen and keys reused"
        }
        Mode::Quality => "Windows and thresholds, with everything computed anew for each window",
        Mode::Fast => "Small windows and nothing behind them, each token computed once",
        Mode::FastDllm => "Fast-dLLM as published: blocks of 32, all computed anew for each",
        Mode::D3llm => "d3LLM as published: blocks of 32 that open before the last one is full",
    }
}

fn about_cache(cache: Cache) -> &'static str {
    match cache {
        Cache::None => "all of the canvas is computed",
        Cache::Prefix => "what is before the window is kept",
        Cache::Window => "what is outside the window is kept",
        Cache::Dual => "all but the masks of the window is kept",
    }
}

fn about_far(far: Far) -> &'static str {
    match far {
        Far::Hidden => "nothing",
        Far::Thinned => "masks at growing distances, and the last",
    }
}

fn about_first_token(first: FirstToken) -> &'static str {
    match first {
        FirstToken::Predicted => "that row is computed with the window",
        FirstToken::Committed => "from where all is computed, whatever its probability (Fast-dLLM)",
    }
}

fn about_rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Threshold => "the probability of each token",
        Rule::Klass => "the same, where the last two forwards changed nothing (KLASS)",
        Rule::Entropy => "the entropy at each place, in nats: below it (d3LLM)",
        Rule::Frechet => "a bound of the probability of all together (Fast-dLLM++)",
    }
}

impl DecodingArgs {
    /// The preset, with what the flags change.
    pub fn decoding(&self, mut decoding: Decoding, is_gpu: bool, is_fixed: bool) -> Decoding {
        if is_fixed && !decoding.is_capped {
            decoding.threshold = None;
        }
        match self.window {
            Some(Window::Auto) => decoding.window = Some(usual_window(is_gpu)),
            Some(Window::Full) => decoding.window = None,
            Some(Window::Masks(masks)) => decoding.window = Some(masks),
            None => {}
        }
        decoding.lookahead = self.lookahead.map_or(decoding.lookahead, |n| n.0);
        decoding.cache = self.cache.unwrap_or(decoding.cache);
        decoding.refresh = self.refresh.unwrap_or(decoding.refresh);
        decoding.far = self.far.unwrap_or(decoding.far);
        decoding.first_token = self.first_token.unwrap_or(decoding.first_token);
        if let (Some(blocks), Some(size)) = (&mut decoding.blocks, self.sub_block) {
            blocks.sub_block = Some(size);
        }
        if let Some(rule) = self.rule {
            decoding.rule = rule;
            decoding.threshold = decoding.threshold.map(|_| rule.usual_threshold());
        }
        decoding.threshold = self.threshold.map_or(decoding.threshold, |p| p.0);
        let order = self.order_temperature.map(|t| t.0);
        decoding.order_temperature = order.unwrap_or(decoding.order_temperature);
        decoding
    }
}
