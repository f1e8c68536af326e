//! Devices that fail while texts run on them, simulated by a CPU executor that refuses passes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use esolm_core::checkpoint::OpenOptions;
use esolm_core::plan::{Schedule, SlotMove};
use esolm_core::request::DecodeAs;
use esolm_core::reveal::{Choice, Outcome};
use esolm_core::rows::{Layout, StepRows};
use esolm_core::trace::Counters;
use pollster::block_on;

use super::*;
use crate::cpu::CpuExecutor;
use crate::device::DeviceChoice;
use crate::executor::{Draw, Executor, NoiseKey, Pending, Share};
use crate::measure::Rates;
use crate::measure::forms::{Comparison, Scope};
use crate::model::Model;
use crate::weights::{Activations, Weights};

const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/stories");
const SETDLM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/golden-family/setdlm/owt_setdlm_smax8"
);
/// Number of a text that breaks every device.
const POISON: u32 = 666;
const TEXTS: u32 = 6;

/// When a device fails.
#[derive(Clone, Default)]
struct Faults {
    /// Passes on all devices so far.
    passes: Arc<AtomicUsize>,
    /// Passes that fail regardless of what they contain.
    at: Arc<Mutex<Vec<usize>>>,
    /// Number of devices opened.
    opened: Arc<AtomicUsize>,
    /// Devices that fail to open.
    closed: Arc<Mutex<Vec<usize>>>,
    /// A text whose caller goes away when a pass fails.
    leaves: Arc<Mutex<Option<Writing>>>,
}

/// A CPU executor that refuses passes as a lost GPU would.
struct Fragile {
    cpu: CpuExecutor,
    faults: Faults,
    is_lost: bool,
}

impl Fragile {
    fn check(&self) -> Result<(), EngineError> {
        match self.is_lost {
            true => Err(EngineError::Device("it was taken away".into())),
            false => Ok(()),
        }
    }
}

impl Executor for Fragile {
    fn prepare(&mut self, layout: &Layout, rows: usize, sampled: usize) -> Result<(), EngineError> {
        self.cpu.prepare(layout, rows, sampled)
    }

    fn start(&mut self, layout: &Layout, tokens: &[u32]) -> Result<(), EngineError> {
        self.check()?;
        self.cpu.start(layout, tokens)
    }

    fn pass(&mut self, step: &StepRows, keys: &[NoiseKey]) -> Result<(), EngineError> {
        let pass = self.faults.passes.fetch_add(1, Ordering::SeqCst);
        let fails = self.faults.at.lock().unwrap().contains(&pass);
        let is_poisoned = pass > 3 && keys.iter().any(|key| key[0] == POISON);
        self.is_lost |= fails || is_poisoned;
        if self.is_lost {
            self.faults.leaves.lock().unwrap().take();
        }
        self.check()?;
        self.cpu.pass(step, keys)
    }

    fn draw(&mut self, draw: &Draw) -> Result<(), EngineError> {
        self.cpu.draw(draw)
    }

    fn draw_each(&mut self, shares: &[Share]) -> Result<(), EngineError> {
        self.cpu.draw_each(shares)
    }

    fn reveal(&mut self, shares: &[Share], choice: &Choice) -> Result<(), EngineError> {
        self.cpu.reveal(shares, choice)
    }

    fn move_slots(&mut self, moves: &[SlotMove]) -> Result<(), EngineError> {
        self.cpu.move_slots(moves)
    }

    fn outcome(&mut self, wanted: bool) -> Pending<'static, Outcome> {
        self.cpu.outcome(wanted)
    }

    fn write(&mut self, first: usize, tokens: &[u32]) -> Result<(), EngineError> {
        self.check()?;
        self.cpu.write(first, tokens)
    }

    fn swap(&mut self) {
        self.cpu.swap();
    }

    fn logits(&mut self) -> Pending<'_, Vec<f32>> {
        self.cpu.logits()
    }

    fn score<'a>(&'a mut self, targets: &'a [u32]) -> Pending<'a, Vec<f32>> {
        self.cpu.score(targets)
    }

    fn tokens(&mut self) -> Pending<'static, Vec<u32>> {
        match self.check() {
            Ok(()) => self.cpu.tokens(),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn wait(&self) -> Pending<'_, ()> {
        self.cpu.wait()
    }

    fn counters(&self) -> Counters {
        self.cpu.counters()
    }

    fn rates(&self) -> Pending<'_, Rates> {
        self.cpu.rates()
    }

    fn compare(&self, scope: &Scope) -> Pending<'_, Option<Vec<Comparison>>> {
        self.cpu.compare(scope)
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

fn serving(faults: &Faults, options: ServingOptions) -> Serving {
    serving_of(STORIES, faults, options)
}

fn serving_of(source: &str, faults: &Faults, options: ServingOptions) -> Serving {
    let files = ModelFiles::open(source, &OpenOptions::default()).unwrap();
    let ModelFiles { checkpoint, shared } = files;
    let checkpoint = Arc::new(checkpoint);
    let device = DeviceInfo {
        adapter: None,
        variants: None,
        weights: Weights::F32,
        activations: Activations::F32,
        kv_cache: Default::default(),
        is_fallback: false,
        passed_over: Vec::new(),
    };
    let faults = faults.clone();
    let open: Opener = Box::new(move || {
        let (checkpoint, faults, device) = (checkpoint.clone(), faults.clone(), device.clone());
        Box::pin(async move {
            let number = faults.opened.fetch_add(1, Ordering::SeqCst);
            if faults.closed.lock().unwrap().contains(&number) {
                return Err(EngineError::NoAdapter("it does not come back".into()));
            }
            let cpu = CpuExecutor::load(&checkpoint, Weights::F32, Activations::F32).await?;
            let config = cpu.config().clone();
            let is_lost = false;
            let fragile = Fragile {
                cpu,
                faults,
                is_lost,
            };
            Ok(Engine::of(Box::new(fragile), config, device))
        })
    });
    block_on(Serving::start_with(open, shared, options)).unwrap()
}

fn request(number: u32) -> Request {
    Request {
        prompt: vec!["Once upon a time".into()],
        length: Some(28),
        seed: Some(11),
        alpha_0: Some(0.5),
        first: number,
        ..Request::default()
    }
}

fn text(number: u32) -> TextRequest {
    TextRequest {
        request: request(number),
        // Some start over, some continue.
        is_watched: number.is_multiple_of(2),
        ..TextRequest::default()
    }
}

fn alone() -> impl Fn(u32) -> Vec<u32> {
    let alone = alone_of(STORIES);
    move |number| alone(request(number))
}

fn alone_of(source: &str) -> impl Fn(Request) -> Vec<u32> {
    let cpu = LoadOptions {
        device: DeviceChoice::Cpu,
        ..LoadOptions::default()
    };
    let model = Model::load_blocking(source, cpu).unwrap();
    move |request| {
        let footer = block_on(model.generate(request).finish()).unwrap();
        footer.tokens.into_iter().next().unwrap()
    }
}

/// Collects everything reported about a text, and checks that it agrees with the final text.
fn watched(mut writing: Writing) -> Result<Vec<u32>, ServingError> {
    let mut known = Vec::new();
    let mut steps = 0;
    while let Some(told) = block_on(writing.next()) {
        match told? {
            Told::Header(_) => {}
            Told::Step { step, .. } => {
                assert!(step.step >= steps, "every step is told once");
                steps = step.step + 1;
                known.extend(step.revealed);
            }
            Told::Written(written) => {
                for revealed in known {
                    let position = revealed.position as usize;
                    assert_eq!(written.tokens[position], revealed.token);
                }
                return Ok(written.tokens);
            }
        }
    }
    panic!("no end was told");
}

#[test]
fn only_the_request_that_breaks_the_device_fails() {
    let faults = Faults::default();
    let serving = serving(&faults, ServingOptions::default());
    let numbers = (0..TEXTS).chain([POISON]);
    let writings = serving.write(numbers.clone().map(text).collect()).unwrap();
    let alone = alone();
    for (number, writing) in numbers.zip(writings) {
        let written = watched(writing);
        match number {
            POISON => assert!(
                matches!(
                    &written,
                    Err(ServingError::Model(Error::Engine(EngineError::Device(_))))
                ),
                "{written:?}"
            ),
            _ => assert_eq!(written.unwrap(), alone(number), "{number}"),
        }
    }
    // The first time it ran together with others.
    assert_eq!(faults.opened.load(Ordering::SeqCst), 3);
    let state = serving.state();
    assert_eq!((state.failures, state.is_open), (2, true));
    assert_eq!((state.queued, state.running), (0, 0));
}

/// The text that is left may be innocent.
#[test]
fn a_text_is_not_blamed_for_one_whose_caller_is_gone() {
    let faults = Faults::default();
    *faults.at.lock().unwrap() = vec![3];
    let mut leaves = faults.leaves.lock().unwrap();
    let serving = serving(&faults, ServingOptions::default());
    let mut writings = serving.write(vec![text(0), text(1)]).unwrap();
    *leaves = writings.pop();
    drop(leaves);
    let written = watched(writings.remove(0));
    assert_eq!(written.unwrap(), alone()(0));
    assert_eq!(serving.state().failures, 1);
}

/// A program may end when it has dropped its last handle.
#[test]
fn whoever_drops_the_last_handle_waits() {
    let serving = serving(&Faults::default(), ServingOptions::default());
    let ended = serving.ended.clone();
    let writing = serving.write(vec![text(0)]).unwrap().remove(0);
    drop(serving.clone());
    assert!(!ended.is_closed());
    drop(serving);
    assert!(ended.is_closed());
    assert_eq!(watched(writing).unwrap(), alone()(0));
}

#[test]
fn a_device_that_fails_now_and_then_costs_nobody_a_text() {
    for first in [0, 1, 5, 9] {
        let faults = Faults::default();
        *faults.at.lock().unwrap() = vec![first, first + 8];
        let options = ServingOptions {
            places: 4,
            ..ServingOptions::default()
        };
        let serving = serving(&faults, options);
        let writings = serving.write((0..TEXTS).map(text).collect()).unwrap();
        let alone = alone();
        for (number, writing) in (0..TEXTS).zip(writings) {
            match watched(writing) {
                Ok(tokens) => assert_eq!(tokens, alone(number), "{number}"),
                // The second failure may happen while a text runs alone.
                Err(error) => assert!(error.to_string().contains("taken away"), "{error}"),
            }
        }
        assert_eq!(serving.state().failures, 2);
    }
}

#[test]
fn a_device_that_does_not_come_back_turns_everybody_away_until_it_does() {
    let faults = Faults::default();
    *faults.at.lock().unwrap() = vec![2];
    *faults.closed.lock().unwrap() = vec![1, 2];
    let serving = serving(&faults, ServingOptions::default());
    let writings = serving.write((0..TEXTS).map(text).collect()).unwrap();
    for writing in writings {
        let error = watched(writing).unwrap_err();
        assert!(matches!(error, ServingError::Unavailable(_)), "{error}");
    }
    assert!(!serving.state().is_open);
    let again = |number| {
        let mut writings = serving.write(vec![text(number)]).unwrap();
        watched(writings.remove(0))
    };
    assert!(matches!(again(0), Err(ServingError::Unavailable(_))));
    assert_eq!(again(0).unwrap(), alone()(0));
    assert!(serving.state().is_open);
}

#[test]
fn what_is_scored_beside_the_texts_survives_a_failure_as_well() {
    let echo = |top| Echo {
        tokens: (10..30).collect(),
        top,
        ..Echo::default()
    };
    let faults = Faults::default();
    let undisturbed = serving(&faults, ServingOptions::default());
    let expected = block_on(undisturbed.echo(vec![echo(2)])).unwrap();
    for fails in 0..12 {
        let faults = Faults::default();
        *faults.at.lock().unwrap() = vec![fails];
        let serving = serving(&faults, ServingOptions::default());
        let writings = serving.write((0..TEXTS).map(text).collect()).unwrap();
        let got = block_on(serving.echo(vec![echo(2), echo(2)]));
        // Both were scored together, so neither is to blame.
        assert_eq!(got.unwrap(), [expected[0].clone(), expected[0].clone()]);
        for writing in writings {
            watched(writing).unwrap();
        }
    }
}

/// Steps derived from revealed tokens continue from there, with a refilled cache.
#[test]
fn what_confidence_chose_before_a_failure_stays() {
    let of_sets = |number: u32| Request {
        steps: (number % 2 == 1).then_some(11),
        window: (number % 3 == 2).then_some(4),
        seed: Some(3),
        first: number,
        ..Request::default()
    };
    let of_stories = |number: u32| Request {
        decode_as: Some([DecodeAs::Mdlm, DecodeAs::Bd3lm][number as usize % 2]),
        block_size: (number % 2 == 1).then_some(4),
        schedule: Some(Schedule::Confidence),
        confidence_threshold: (number > 2).then_some(0.5),
        steps: Some([8, 3][number as usize % 2]),
        alpha_0: None,
        ..request(number)
    };
    let requests: [(&str, &dyn Fn(u32) -> Request); 2] =
        [(SETDLM, &of_sets), (STORIES, &of_stories)];
    for (source, request) in requests {
        let alone = alone_of(source);
        let expected: Vec<_> = (0..TEXTS).map(|number| alone(request(number))).collect();
        for first in [0, 1, 4, 7, 12] {
            let faults = Faults::default();
            *faults.at.lock().unwrap() = vec![first];
            let options = ServingOptions {
                places: 4,
                ..ServingOptions::default()
            };
            let serving = serving_of(source, &faults, options);
            let texts = (0..TEXTS).map(|number| TextRequest {
                request: request(number),
                is_watched: number.is_multiple_of(2),
                ..TextRequest::default()
            });
            let writings = serving.write(texts.collect()).unwrap();
            for (writing, expected) in writings.into_iter().zip(&expected) {
                assert_eq!(&watched(writing).unwrap(), expected, "pass {first}");
            }
            assert_eq!(serving.state().failures, 1);
        }
    }
}
