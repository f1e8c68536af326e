//! The public interface as a program uses it: what is written and scored, and what happens to abandoned calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use esolm::checkpoint::OpenOptions;
use esolm::trace::{Event, Footer, Header, Step};
use esolm::{
    Activations, Corpus, DeviceChoice, Error, Forward, LoadOptions, MaskMode, Model, ModelFiles,
    PerplexityOptions, Progress, Request, ScoreItem, ScoreOptions, Weights,
};
use pollster::block_on;

#[path = "model/chat.rs"]
mod chat;
#[path = "model/chosen.rs"]
mod chosen;
#[path = "../../crates/esolm/examples/generate.rs"]
mod generate;
#[path = "../../crates/esolm/examples/infill.rs"]
mod infill;
#[path = "../../crates/esolm/examples/score.rs"]
mod score;
#[path = "model/serving.rs"]
mod serving;
#[path = "../../crates/esolm/examples/watch.rs"]
mod watch;

const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/stories");

fn model() -> Model {
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        ..LoadOptions::default()
    };
    Model::load_blocking(STORIES, options).unwrap_or_else(|error| panic!("{error}"))
}

fn short(seed: u64) -> Request {
    Request {
        length: Some(32),
        seed: Some(seed),
        ..Request::default()
    }
}

/// The events of a generation.
fn told(model: &Model, request: Request) -> (Vec<Header>, Vec<Step>, Footer) {
    let (mut headers, mut steps, mut footer) = (Vec::new(), Vec::new(), None);
    for event in model.generate(request).blocking() {
        match event.unwrap() {
            Event::Header(header) => headers.push(header),
            Event::Step(step) => steps.push(step),
            Event::Footer(last) => assert!(footer.replace(last).is_none(), "one footer"),
        }
    }
    (headers, steps, footer.expect("a footer"))
}

/// The cost of quantised weights on texts written by the exact ones: how much less likely these become, and how often
/// another token is the most likely one. Ideal rounding to 8 bits measures 0.04 % and 1.2 %; the cost of 4 bits depends
/// on the model. Needs a GPU adapter; a software one will do.
#[test]
fn rounded_weights_cost_little() {
    let (cpu, gpu) = (DeviceChoice::Cpu, DeviceChoice::Gpu(None));
    let load = |device, weights, activations| {
        let options = LoadOptions {
            device,
            weights: Some(weights),
            activations,
            ..LoadOptions::default()
        };
        Model::load_blocking(STORIES, options).unwrap_or_else(|error| panic!("{error}"))
    };
    let exact = load(cpu, Weights::F32, Activations::F32);
    let config = exact.config().clone();
    let request = Request {
        batch: Some(48),
        seed: Some(1),
        alpha_0: Some(0.0),
        // Texts from the model's own distribution, without its recommended settings.
        temperature: Some(1.0),
        top_p: Some(1.0),
        ..Request::default()
    };
    let texts = told(&exact, request).2.tokens;
    let order: Vec<u32> = (0..config.length as u32).collect();
    let pass = Forward::Sorted {
        mode: MaskMode::Causal,
        sort_idx: vec![order; texts.len()],
        zt_sorted: vec![vec![config.mask_index; config.length]; texts.len()],
        x0_sorted: Some(texts.clone()),
    };
    // The mean log-probability of a token, and the most likely token of each row.
    let read = |model: &Model| {
        let logits = model.blocking().forward(pass.clone()).unwrap();
        let rows = logits.chunks(config.vocab_size);
        let (mut total, mut top) = (0.0, Vec::new());
        for (row, &token) in rows.zip(texts.iter().flatten()) {
            let real = || (0..).zip(row).filter(|&(id, _)| id != config.mask_index);
            let sum: f64 = real().map(|(_, &logit)| f64::from(logit).exp()).sum();
            total += f64::from(row[token as usize]) - sum.ln();
            let best = real().max_by(|a, b| a.1.total_cmp(b.1));
            top.push(best.map(|(id, _)| id));
        }
        (total / top.len() as f64, top)
    };
    let (want, best) = read(&exact);
    for (device, weights, activations, loss, others) in [
        (cpu, Weights::F16, Activations::F32, 1e-4, 0.001),
        (cpu, Weights::Q8, Activations::F32, 2e-3, 0.02),
        (cpu, Weights::Q8, Activations::Q8, 2e-3, 0.03),
        (cpu, Weights::Q4, Activations::F32, 0.2, 0.25),
        (cpu, Weights::Q4, Activations::Q8, 0.2, 0.25),
        (gpu, Weights::F16, Activations::F32, 1e-4, 0.001),
        (gpu, Weights::Q8, Activations::F32, 2e-3, 0.02),
        (gpu, Weights::Q4, Activations::F32, 0.2, 0.25),
    ] {
        let model = load(device, weights, activations);
        let (got, top) = read(&model);
        let changed = top.iter().zip(&best).filter(|(a, b)| a != b).count();
        let share = changed as f64 / best.len() as f64;
        // The perplexity is the exponential of the mean.
        let more = (want - got).exp() - 1.0;
        let name = format!("{device:?}, {weights} weights, {activations} activations");
        println!("{name}: perplexity {more:+.5}, other tokens {share:.4}");
        assert!(more < loss && share < others, "{name}: {more}, {share}");
    }
}

#[test]
fn the_examples_run() {
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap();
    generate::main().unwrap();
    infill::main().unwrap();
    watch::main().unwrap();
    score::main().unwrap();
}

#[test]
fn nothing_here_is_bound_to_a_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    fn is_shared<T: Send + Sync + Clone>(_: &T) {}
    let model = model();
    is_shared(&model);
    drop(is_send(model.generate(short(1))));
    drop(is_send(model.text(short(1))));
    drop(is_send(model.score(Vec::new(), ScoreOptions::default())));
    drop(is_send(Model::load(STORIES, LoadOptions::default())));
    let other = model.clone();
    let elsewhere = std::thread::spawn(move || other.blocking().text(short(1)).unwrap());
    let here = model.blocking().text(short(1)).unwrap();
    assert_eq!(elsewhere.join().unwrap(), here);
}

#[test]
fn events_tell_the_whole_text() {
    let model = model();
    let (headers, steps, footer) = told(&model, short(2));
    assert_eq!(headers.len(), 1);
    assert_eq!(steps.len(), headers[0].nfe);
    let mut tokens = vec![headers[0].mask_index; 32];
    for &(position, token) in &headers[0].known[0] {
        tokens[position as usize] = token;
    }
    for revealed in steps.iter().flat_map(|step| &step.revealed) {
        tokens[revealed.position as usize] = revealed.token;
        assert_eq!(revealed.text, footer.pieces[&revealed.token]);
    }
    assert_eq!(tokens, footer.tokens[0]);
    assert!(!footer.interrupted);
    // Watching changes nothing.
    assert_eq!(model.blocking().text(short(2)).unwrap(), footer.text[0]);
    let unseen = block_on(model.generate(short(2)).unobserved().finish()).unwrap();
    assert_eq!(unseen.tokens, footer.tokens);
}

#[test]
fn generations_may_be_dropped_or_stopped_at_any_moment() {
    let model = model();
    let whole = model.blocking().text(short(3)).unwrap();
    for events in 0..6 {
        let mut generation = model.generate(short(3));
        for _ in 0..events {
            block_on(generation.next()).unwrap().unwrap();
        }
        drop(generation);
        assert_eq!(model.blocking().text(short(3)).unwrap(), whole, "{events}");
    }
    let mut generation = model.generate(short(3));
    block_on(generation.next()).unwrap().unwrap();
    generation.stop();
    let footer = block_on(generation.finish()).unwrap();
    assert!(footer.interrupted);
    let mask = model.config().mask_index;
    assert!(footer.tokens[0].contains(&mask) && footer.text[0].contains("____"));
    // Every step that ran is reported, wherever it is stopped, and only an incomplete text counts as interrupted.
    let nfe = told(&model, short(3)).0[0].nfe;
    for stop_after in 1..=nfe {
        let mut generation = model.generate(short(3));
        let mut steps = 0;
        let footer = loop {
            match block_on(generation.next()).unwrap().unwrap() {
                Event::Header(_) => {}
                Event::Step(_) => steps += 1,
                Event::Footer(footer) => break footer,
            }
            if steps == stop_after {
                generation.stop();
            }
        };
        assert_eq!(steps, footer.nfe);
        assert_eq!(footer.interrupted, footer.nfe < nfe);
        assert_eq!(footer.interrupted, footer.tokens[0].contains(&mask));
    }
    // One outlives the handle that it came from.
    for events in [0, 1] {
        let other = self::model();
        let mut generation = other.generate(short(3));
        for _ in 0..events {
            block_on(generation.next()).unwrap().unwrap();
        }
        drop(other);
        assert_eq!(block_on(generation.finish()).unwrap().text[0], whole);
    }
    // A generation that has not been polled delays no other.
    let waiting = model.generate(short(3));
    assert_eq!(model.blocking().text(short(3)).unwrap(), whole);
    assert_eq!(block_on(waiting.finish()).unwrap().text[0], whole);
}

#[test]
fn a_call_that_nobody_waits_for_ends() {
    let model = model();
    let items = vec![ScoreItem::Text("Once upon a time.".into()); 64];
    let passes = Arc::new(AtomicUsize::new(0));
    let options = |hear: Progress| ScoreOptions {
        likelihood: esolm::Likelihood {
            batch: Some(1),
            ..esolm::Likelihood::default()
        },
        progress: hear,
        ..ScoreOptions::default()
    };
    let (started, first) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let count = passes.clone();
    let hear = Progress::new(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        // Only the first pass waits; later there is no receiver or sender.
        let _ = started.send(());
        let _ = wait.lock().unwrap().recv();
        true
    });
    let mut call = Box::pin(model.score(items.clone(), options(hear)));
    let waker = std::task::Waker::noop();
    let poll = call
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker));
    assert!(poll.is_pending(), "a poll computes nothing");
    first.recv().unwrap();
    drop(call);
    drop(go);
    let all = model
        .blocking()
        .score(items.clone(), options(Progress::default()));
    assert_eq!(all.unwrap().len(), 64);
    assert_eq!(passes.load(Ordering::SeqCst), 1);
    // The other way to stop.
    let stopped = model
        .blocking()
        .score(items, options(Progress::new(|_, _| false)));
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
}

/// A text in which the model extended a given word is redrawn alone, with random numbers of its own: it comes out the
/// same in any batch.
#[test]
fn texts_that_run_on_are_drawn_again_alone() {
    let model = model();
    let request = |seed: u64, first: u32, batch: usize| Request {
        infill: Some(
            "The ____{2} big ____{2} dog ____{2} ran ____{2} and ____{2} play ____{2}.".into(),
        ),
        seed: Some(seed),
        first,
        batch: Some(batch),
        ..Request::default()
    };
    const BATCH: usize = 24;
    // Whether this happens in a text depends on the weights.
    let (seed, (headers, steps, footer)) = (0..20)
        .map(|seed| (seed, told(&model, request(seed, 0, BATCH))))
        .find(|(_, (headers, ..))| headers.len() > 1)
        .expect("a text that runs on");
    assert!(footer.run_on.is_empty());
    assert!(headers[1].texts.len() < BATCH, "not the whole batch");
    let again: Vec<usize> = (steps.iter().filter(|step| step.attempt > 0))
        .flat_map(|step| &step.revealed)
        .map(|revealed| revealed.sequence as usize)
        .collect();
    assert!(again.iter().all(|text| headers[1].texts.contains(text)));
    for (text, tokens) in footer.tokens.iter().enumerate() {
        if headers[1].texts.contains(&text) || text < 3 {
            let alone = told(&model, request(seed, text as u32, 1)).2;
            assert_eq!(&alone.tokens[0], tokens, "text {text}");
        }
    }
}

#[test]
fn scores_and_perplexity_agree() {
    let model = model();
    let text = "Once upon a time, there was a little girl. She had a red ball.";
    let scored = model
        .blocking()
        .score(vec![ScoreItem::Text(text.into())], ScoreOptions::default())
        .unwrap();
    let options = PerplexityOptions {
        likelihood: esolm::Likelihood {
            alpha_0: Some(0.0),
            draws: Some(0),
            ..esolm::Likelihood::default()
        },
        per_document: true,
        ..PerplexityOptions::default()
    };
    let corpus = || Corpus::Documents(vec![text.into()]);
    let measured = model.blocking().perplexity(corpus(), options).unwrap();
    let (index, score) = measured.per_document[0];
    assert_eq!(index, 0);
    assert_eq!(score, scored[0].scores[0]);
    assert_eq!(measured.bytes, Some(text.len()));
    let nats = measured.exact.unwrap().nats_per_token;
    assert!((nats * score.tokens as f64 + score.logp).abs() < 1e-6);
}

#[test]
fn a_handle_closes_without_waiting_for_others() {
    let model = model();
    let (other, held) = (model.clone(), model.generate(short(1)));
    block_on(other.close());
    block_on(model.close());
    assert!(block_on(held.finish()).is_ok());
}

#[test]
fn likelihoods_have_ranges() {
    let model = model();
    let items = || vec![ScoreItem::Text("Once.".into())];
    let options = |change: &dyn Fn(&mut esolm::Likelihood)| {
        let mut options = ScoreOptions::default();
        change(&mut options.likelihood);
        options
    };
    for (name, options) in [
        ("alpha_0", options(&|l| l.alpha_0 = Some(-1.0))),
        ("alpha_0", options(&|l| l.alpha_0 = Some(f64::NAN))),
        ("orders", options(&|l| l.orders = Some(0))),
        ("orders", options(&|l| l.orders = Some(u32::MAX))),
        ("batch", options(&|l| l.batch = Some(0))),
    ] {
        let refused = model.blocking().score(items(), options);
        assert!(
            matches!(&refused, Err(Error::Range { option, .. }) if *option == name),
            "{refused:?}"
        );
    }
}

#[test]
fn what_does_not_fit_is_an_error_with_data() {
    let model = model();
    let long = Request {
        length: Some(4096),
        ..Request::default()
    };
    let error = model.blocking().text(long.clone()).unwrap_err();
    let Error::Request(esolm::RequestError::Length { length, context }) = error else {
        panic!("{error}");
    };
    assert_eq!((length, context), (4096, 256));
    let files = ModelFiles::open(STORIES, &OpenOptions::default()).unwrap();
    assert!(files.plan(&long).is_err(), "said before anything is loaded");
    let items = vec![
        ScoreItem::Text("a".into()),
        ScoreItem::Choices {
            context: "a".into(),
            choices: vec![String::new()],
        },
    ];
    let error = model.blocking().score(items, ScoreOptions::default());
    assert!(
        matches!(error, Err(Error::Item { index: 1, .. })),
        "{error:?}"
    );
}

/// If the model's thread panics, nobody waits forever: current and later calls get an error.
#[test]
fn a_thread_that_panics_leaves_nobody_waiting() {
    let model = model();
    let items = || vec![ScoreItem::Text("Once.".into())];
    let hears = |hear: Progress| ScoreOptions {
        progress: hear,
        ..ScoreOptions::default()
    };
    let open = Arc::new(AtomicUsize::new(0));
    let gate = open.clone();
    let waits = hears(Progress::new(move |_, _| {
        while gate.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        true
    }));
    let panics = hears(Progress::new(|_, _| panic!("on purpose")));
    // Queued in this order, behind the first, which blocks the thread.
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    let mut first = Box::pin(model.score(items(), waits));
    let mut second = Box::pin(model.score(items(), panics));
    let mut third = Box::pin(model.text(short(1)));
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    assert!(third.as_mut().poll(&mut context).is_pending());
    open.store(1, Ordering::SeqCst);
    assert!(block_on(first).is_ok());
    assert!(matches!(block_on(second), Err(Error::Crashed)));
    assert!(matches!(block_on(third), Err(Error::Crashed)));
    let after = model.blocking().text(short(1));
    assert!(matches!(after, Err(Error::Crashed)), "{after:?}");
}
