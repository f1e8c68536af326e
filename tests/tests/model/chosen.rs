//! Texts of a running batch whose tokens are chosen by confidence, together with each other and with texts of other
//! schedules.

use esolm::checkpoint::OpenOptions;
use esolm::plan::Schedule;
use esolm::request::{DecodeAs, TokenName};
use esolm::{
    DeviceChoice, LoadOptions, Model, ModelFiles, Request, Serving, ServingOptions, TextRequest,
    Told,
};
use pollster::block_on;

use super::STORIES;

const SETDLM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/golden-family/setdlm/owt_setdlm_smax8"
);
const BD3LM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/golden-family/bd3lm/bs4"
);

fn by_confidence(number: u32) -> Request {
    Request {
        schedule: Some(Schedule::Confidence),
        // Some share passes with others of their seed, some with others of another seed, some with none.
        temperature: Some([1.0, 0.7, 1.0][number as usize % 3]),
        seed: Some(u64::from(number / 3)),
        first: number,
        ..Request::default()
    }
}

/// One network in three modes, with and without a threshold.
fn of_stories() -> Vec<Request> {
    (0..14)
        .map(|number| Request {
            prompt: vec!["Once upon a time".into()],
            length: Some(24 + 4 * (number as usize % 3)),
            decode_as: [None, Some(DecodeAs::Mdlm), Some(DecodeAs::Bd3lm)][number as usize % 3],
            block_size: (number % 3 == 2).then_some(4),
            schedule: (number % 3 > 0).then_some(Schedule::Confidence),
            confidence_threshold: (number % 3 > 0 && number > 6).then_some(0.4),
            steps: (number % 3 > 0).then_some(if number % 3 == 1 { 9 } else { 3 }),
            ..by_confidence(number)
        })
        .collect()
}

fn of_blocks() -> Vec<Request> {
    (0..9)
        .map(|number| Request {
            steps: Some(2 + number as usize % 2),
            confidence_threshold: (number > 3).then_some(0.05),
            // For some, half of the tokens are suppressed, or have confidence 0.
            suppress_tokens: left_out(number % 4 == 2),
            begin_suppress_tokens: left_out(number % 4 == 3),
            ..by_confidence(number)
        })
        .collect()
}

fn left_out(is_wanted: bool) -> Vec<TokenName> {
    let tokens = if is_wanted { 0..48 } else { 0..0 };
    tokens.map(TokenName::Number).collect()
}

fn of_sets() -> Vec<Request> {
    (0..12)
        .map(|number| Request {
            schedule: match number % 4 {
                0 => None,
                3 => Some(Schedule::FirstHitting),
                _ => Some(Schedule::Confidence),
            },
            length: Some(16 + number as usize),
            steps: (number % 4 == 1).then_some(7),
            window: (number % 4 == 2).then_some(5),
            train_order: number == 2,
            confidence_threshold: (number == 6).then_some(0.02),
            ..by_confidence(number)
        })
        .collect()
}

fn load(device: DeviceChoice) -> LoadOptions {
    LoadOptions {
        device,
        ..LoadOptions::default()
    }
}

/// The texts that a generation writes for each alone.
fn alone(source: &str, requests: &[Request], device: DeviceChoice) -> Vec<Vec<u32>> {
    let model = Model::load_blocking(source, load(device)).unwrap();
    let write = |request: &Request| {
        let written = block_on(model.generate(request.clone()).unobserved().finish());
        written.unwrap().tokens.remove(0)
    };
    requests.iter().map(write).collect()
}

fn serving(source: &str, places: usize, device: DeviceChoice) -> Serving {
    let files = ModelFiles::open(source, &OpenOptions::default()).unwrap();
    let options = ServingOptions {
        places,
        ..ServingOptions::default()
    };
    block_on(Serving::start(files, load(device), options)).unwrap()
}

/// Every kind of reading: only the end, each step, and the steps' logits.
fn asked(number: usize, request: &Request) -> TextRequest {
    TextRequest {
        request: request.clone(),
        is_watched: number % 3 == 1,
        top: (number % 4 == 2).then_some(2),
        ..TextRequest::default()
    }
}

fn is_that_alone(source: &str, requests: &[Request], places: usize, device: DeviceChoice) {
    let expected = alone(source, requests, device);
    let serving = serving(source, places, device);
    let texts = requests.iter().enumerate();
    let texts: Vec<TextRequest> = texts.map(|(number, r)| asked(number, r)).collect();
    let writings = serving.write(texts.clone()).unwrap();
    for (number, mut writing) in writings.into_iter().enumerate() {
        let (mut told, mut steps) = (Vec::new(), 0);
        let written = loop {
            match block_on(writing.next()).unwrap().unwrap() {
                Told::Header(_) => {}
                Told::Step { step, log_probs } => {
                    assert!(step.step >= steps && step.step < step.steps, "{step:?}");
                    steps = step.step + 1;
                    if texts[number].top.is_some() {
                        assert_eq!(log_probs.len(), step.revealed.len());
                    }
                    told.extend(step.revealed);
                }
                Told::Written(written) => break written,
            }
        };
        assert_eq!(
            written.tokens, expected[number],
            "{number} of {places} places: {:?}",
            requests[number]
        );
        if texts[number].is_watched {
            let given = writing.resolved().given.known[0].len();
            assert_eq!(told.len() + given, written.tokens.len(), "each token once");
            for one in told {
                assert_eq!(written.tokens[one.position as usize], one.token);
            }
        }
        if texts[number].top.is_some() {
            let known = written.log_probs.iter().flatten().count();
            let given = writing.resolved().given.known[0].len();
            assert_eq!(known + given, written.tokens.len());
        }
    }
}

#[test]
fn confidence_chooses_in_a_running_batch_what_it_chooses_alone() {
    for places in [1, 3, 16] {
        is_that_alone(STORIES, &of_stories(), places, DeviceChoice::Cpu);
        is_that_alone(BD3LM, &of_blocks(), places, DeviceChoice::Cpu);
        is_that_alone(SETDLM, &of_sets(), places, DeviceChoice::Cpu);
    }
}

/// Up to rounding, which does not matter here. Needs an adapter; a software one will do.
#[test]
fn confidence_chooses_on_a_gpu_what_it_chooses_alone() {
    let gpu = DeviceChoice::Gpu(None);
    is_that_alone(STORIES, &of_stories(), 5, gpu);
    is_that_alone(SETDLM, &of_sets(), 5, gpu);
}
