//! A running batch: texts that come and go at any time are the same as alone.

use std::collections::HashMap;
use std::time::Duration;

use esolm::checkpoint::OpenOptions;
use esolm::plan::Schedule;
use esolm::request::TokenName;
use esolm::stop::Finish;
use esolm::{
    DeviceChoice, Echo, Error, LikelihoodError, LoadOptions, Model, ModelFiles, Request, ScoreItem,
    ScoreOptions, Serving, ServingError, ServingOptions, TextRequest, Told,
};
use esolm_tests::golden;
use pollster::block_on;

use super::{STORIES, model};

fn serving_on(device: DeviceChoice, options: ServingOptions) -> Serving {
    let files = ModelFiles::open(STORIES, &OpenOptions::default()).unwrap();
    let load = LoadOptions {
        device,
        ..LoadOptions::default()
    };
    block_on(Serving::start(files, load, options)).unwrap_or_else(|error| panic!("{error}"))
}

fn serving(places: usize) -> Serving {
    let options = ServingOptions {
        places,
        ..ServingOptions::default()
    };
    serving_on(DeviceChoice::Cpu, options)
}

/// Requests of every kind, no two alike.
fn requests() -> Vec<Request> {
    let prompts = ["Once upon a time", "Tom had a dog.", "Lily"];
    let schedules = [
        None,
        Some(Schedule::LeftToRight),
        Some(Schedule::Blocks),
        Some(Schedule::BlockAutoregressive),
    ];
    let mut all: Vec<Request> = (0..20)
        .map(|i| Request {
            prompt: match i % 4 {
                3 => Vec::new(),
                kind => vec![prompts[kind].into()],
            },
            length: Some(17 + 5 * i),
            schedule: schedules[i % 4],
            steps: (i % 4 == 3).then_some(4),
            alpha_0: (i % 4 != 3).then_some(i as f64 / 20.0),
            temperature: Some([0.0, 0.7, 1.0][i % 3]),
            top_p: [None, Some(0.9)][i % 2],
            suppress_tokens: left_out(i % 5 == 4),
            seed: Some(i as u64 / 3),
            first: i as u32,
            ..Request::default()
        })
        .collect();
    // Some of these run on at a given word and are drawn again.
    all.extend((0..8).map(|number| Request {
        infill: Some("The cat ____{6} with a dog ____{8}.".into()),
        seed: Some(3),
        first: number,
        ..Request::default()
    }));
    all
}

/// Common words of stories, to be suppressed in some texts.
fn left_out(is_wanted: bool) -> Vec<TokenName> {
    let tokens = [".", ",", " the"].into_iter().filter(|_| is_wanted);
    tokens.map(|name| TokenName::Name(name.into())).collect()
}

fn alone(model: &Model, request: &Request) -> Vec<u32> {
    let footer = block_on(model.generate(request.clone()).unobserved().finish());
    footer.unwrap().tokens.remove(0)
}

/// Independent of what else is served, and when it comes and goes.
#[test]
fn texts_of_a_running_batch_are_those_that_they_are_alone() {
    let model = model();
    let requests = requests();
    let expected: Vec<Vec<u32>> = requests.iter().map(|r| alone(&model, r)).collect();
    for places in [1, 3, 7] {
        let serving = serving(places);
        let mut running = HashMap::new();
        for (number, request) in requests.iter().enumerate() {
            let text = TextRequest {
                request: request.clone(),
                is_watched: number % 3 == 1,
                top: (number % 5 == 2).then_some(2),
                ..TextRequest::default()
            };
            let mut writings = serving.write(vec![text.clone()]).unwrap();
            // And an identical one, which is then abandoned.
            let given_up = serving.write(vec![text]).unwrap();
            running.insert(number, writings.remove(0));
            std::thread::sleep(Duration::from_millis(number as u64 % 7));
            drop(given_up);
        }
        for (number, writing) in running {
            let written = block_on(writing.finish()).unwrap();
            assert_eq!(
                written.tokens, expected[number],
                "{number} of {places} places"
            );
        }
        // Abandoned texts leave after the current pass.
        let mut state = serving.state();
        while (state.queued, state.running) != (0, 0) {
            std::thread::sleep(Duration::from_millis(1));
            state = serving.state();
        }
        assert!(state.passes > 0 && state.drawn > 0 && state.failures == 0);
        block_on(serving.close());
    }
}

/// On a GPU, up to rounding: for this model, no two tokens are that close. Needs an adapter; a software one will do.
#[test]
fn texts_of_a_running_batch_on_a_gpu_are_those_that_they_are_alone() {
    let gpu = DeviceChoice::Gpu(None);
    let load = LoadOptions {
        device: gpu,
        ..LoadOptions::default()
    };
    let model = Model::load_blocking(STORIES, load).unwrap();
    let request = |number: u32| Request {
        prompt: vec!["Once upon a time".into()],
        length: Some(20 + number as usize),
        // Neighbours are drawn in one launch, others in separate ones.
        seed: Some(u64::from(number / 2)),
        temperature: Some(if number < 4 { 1.0 } else { 0.6 }),
        suppress_tokens: left_out(number == 3),
        first: number,
        ..Request::default()
    };
    let serving = serving_on(
        gpu,
        ServingOptions {
            places: 5,
            ..ServingOptions::default()
        },
    );
    let texts: Vec<TextRequest> = (0..7)
        .map(|number| TextRequest {
            request: request(number),
            is_watched: number % 2 == 0,
            top: (number == 3).then_some(1),
            ..TextRequest::default()
        })
        .collect();
    let writings = serving.write(texts).unwrap();
    let echo = Echo {
        tokens: (1..40).collect(),
        ..Echo::default()
    };
    let echoed = block_on(serving.echo(vec![echo.clone()])).unwrap();
    for (number, writing) in (0..).zip(writings) {
        let written = block_on(writing.finish()).unwrap();
        assert_eq!(written.tokens, alone(&model, &request(number)), "{number}");
    }
    let on_cpu = self::serving(1);
    let expected = block_on(on_cpu.echo(vec![echo])).unwrap();
    for (got, want) in echoed[0].iter().zip(&expected[0]) {
        let (got, want) = (got.as_ref().unwrap().logp, want.as_ref().unwrap().logp);
        assert!(
            (got - want).abs() < 2e-3 * want.abs().max(1.0),
            "{got} {want}"
        );
    }
}

#[test]
fn a_place_is_free_once_its_text_is_given_up() {
    let serving = serving_on(
        DeviceChoice::Cpu,
        ServingOptions {
            places: 1,
            queue: 2,
            length: None,
        },
    );
    let text = |length: usize| TextRequest {
        request: Request {
            length: Some(length),
            alpha_0: Some(0.0),
            seed: Some(1),
            ..Request::default()
        },
        is_watched: true,
        ..TextRequest::default()
    };
    let mut first = serving.write(vec![text(256)]).unwrap().remove(0);
    // It has a place.
    assert!(matches!(block_on(first.next()), Some(Ok(Told::Header(_)))));
    let waiting = serving.write(vec![text(16), text(16)]).unwrap();
    let refused = serving.write(vec![text(16)]).err();
    assert!(
        matches!(refused, Some(ServingError::Busy { queue: 2 })),
        "{refused:?}"
    );
    let many = serving.write(vec![text(16); 3]).err();
    let is_too_many = matches!(many, Some(ServingError::TooMany { texts: 3, queue: 2 }));
    assert!(is_too_many, "{many:?}");
    drop(first);
    for writing in waiting {
        assert_eq!(block_on(writing.finish()).unwrap().tokens.len(), 16);
    }
    // Waiting texts that are abandoned leave the queue as well.
    let first = serving.write(vec![text(256)]).unwrap();
    for _ in 0..20 {
        drop(serving.write(vec![text(200)]));
    }
    drop(first);
    let last = serving.write(vec![text(16)]);
    if let Ok(mut last) = last {
        block_on(last.remove(0).finish()).unwrap();
    }
    // The thread may not have noticed yet.
    while serving.state().queued > 0 {
        std::thread::yield_now();
    }
}

/// Stop strings and end-of-text tokens end a text as elsewhere, and nothing more of it is written.
#[test]
fn texts_of_a_running_batch_end_where_they_end_alone() {
    let model = model();
    let serving = serving(4);
    for seed in 0..6 {
        for stop_strings in [vec![" the".into()], vec![".".into(), "zzz".into()]] {
            let request = Request {
                prompt: vec!["Once upon a time".into()],
                length: Some(64),
                alpha_0: Some(0.2 * (seed % 3) as f64),
                seed: Some(seed),
                stop_strings,
                ..Request::default()
            };
            let alone = block_on(model.generate(request.clone()).finish()).unwrap();
            let text = TextRequest {
                request,
                ..TextRequest::default()
            };
            let writing = serving.write(vec![text]).unwrap().remove(0);
            let written = block_on(writing.finish()).unwrap();
            assert_eq!(written.tokens, alone.tokens[0]);
            assert_eq!(
                (&written.text, written.finish),
                (&alone.text[0], alone.finish[0])
            );
            assert!(written.nfe <= alone.nfe + 1);
        }
    }
    let request = |seed| Request {
        alpha_0: Some(0.0),
        seed: Some(seed),
        ..Request::default()
    };
    // Which stories are shorter than the context depends on the weights.
    let (request, whole) = (1..30)
        .map(|seed| {
            let whole = block_on(model.generate(request(seed)).finish()).unwrap();
            (request(seed), whole)
        })
        .find(|(_, whole)| whole.finish[0] == Finish::Eos)
        .expect("a story shorter than the context");
    let text = TextRequest {
        request,
        ends_at_eos: true,
        ..TextRequest::default()
    };
    let writing = serving.write(vec![text]).unwrap().remove(0);
    let written = block_on(writing.finish()).unwrap();
    assert_eq!(written.text, whole.text[0]);
    assert!(written.nfe < whole.nfe, "{} of {}", written.nfe, whole.nfe);
}

/// Places may be shorter than the context; then longer texts do not fit.
#[test]
fn places_are_as_long_as_they_are_asked_to_be() {
    let model = model();
    let options = ServingOptions {
        places: 2,
        length: Some(40),
        ..ServingOptions::default()
    };
    let serving = serving_on(DeviceChoice::Cpu, options);
    assert_eq!(serving.length(), 40);
    let request = |length| Request {
        length: Some(length),
        seed: Some(8),
        ..Request::default()
    };
    let text = |length| TextRequest {
        request: request(length),
        ..TextRequest::default()
    };
    for length in [40, 17, 40] {
        let writing = serving.write(vec![text(length)]).unwrap().remove(0);
        let written = block_on(writing.finish()).unwrap();
        assert_eq!(written.tokens, alone(&model, &request(length)));
    }
    let refused = serving.write(vec![text(41)]).err();
    let is_too_long = matches!(
        refused,
        Some(ServingError::TooLong {
            length: 41,
            most: 40
        })
    );
    assert!(is_too_long, "{refused:?}");
    let echo = Echo {
        tokens: vec![1; 41],
        ..Echo::default()
    };
    let refused = block_on(serving.echo(vec![echo])).unwrap_err();
    assert!(matches!(refused, ServingError::TooLong { .. }), "{refused}");
    let files = ModelFiles::open(STORIES, &OpenOptions::default()).unwrap();
    let options = ServingOptions {
        length: Some(257),
        ..ServingOptions::default()
    };
    let refused = block_on(Serving::start(files, LoadOptions::default(), options)).err();
    assert!(matches!(
        refused,
        Some(Error::Context {
            length: 257,
            context: 256
        })
    ));
}

#[test]
fn tokens_stand_for_their_prompt() {
    let model = model();
    let codec = model.codec().unwrap();
    let prompt = "Once upon a time";
    let request = Request {
        length: Some(24),
        seed: Some(5),
        ..Request::default()
    };
    let worded = Request {
        prompt: vec![prompt.into()],
        ..request.clone()
    };
    let expected = alone(&model, &worded);
    let serving = serving(2);
    let own = codec.encode(prompt).unwrap();
    let opened: Vec<u32> = codec.ends().bos.into_iter().chain(own.clone()).collect();
    for (bos, tokens) in [(None, own), (Some(false), opened)] {
        let text = TextRequest {
            request: Request {
                bos,
                ..request.clone()
            },
            tokens: Some(tokens),
            ..TextRequest::default()
        };
        let writing = serving.write(vec![text]).unwrap().remove(0);
        assert_eq!(writing.resolved().options.length, 24);
        assert_eq!(block_on(writing.finish()).unwrap().tokens, expected);
    }
    let foreign = TextRequest {
        request: request.clone(),
        tokens: Some(vec![u32::MAX]),
        ..TextRequest::default()
    };
    let refused = serving.write(vec![foreign]).err();
    assert!(
        matches!(refused, Some(ServingError::Model(_))),
        "{refused:?}"
    );
    let long = TextRequest {
        request,
        tokens: Some(vec![1; 24]),
        ..TextRequest::default()
    };
    assert!(serving.write(vec![long]).is_err());
}

/// From left to right, they are what `score` adds up; in any other order, their sum is that order's likelihood.
#[test]
fn log_probabilities_of_given_tokens_add_up_to_scores() {
    let model = model();
    let codec = model.codec().unwrap();
    let (context, choice) = ("Once upon a time, there was a", " little girl.");
    let item = ScoreItem::Choices {
        context: context.into(),
        choices: vec![choice.into()],
    };
    let scored = model
        .blocking()
        .score(vec![item], ScoreOptions::default())
        .unwrap();
    let scored = scored[0].scores[0];
    let bos = codec.ends().bos;
    let tokens: Vec<u32> = bos
        .into_iter()
        .chain(codec.encode(&format!("{context}{choice}")).unwrap())
        .collect();
    let given = usize::from(bos.is_some());
    let echo = Echo {
        tokens: tokens.clone(),
        given,
        top: 3,
        ..Echo::default()
    };
    let serving = serving(2);
    let echoed = block_on(serving.echo(vec![echo.clone()]))
        .unwrap()
        .remove(0);
    assert_eq!(echoed.len(), tokens.len());
    assert!(echoed[..given].iter().all(Option::is_none));
    let last = &echoed[tokens.len() - scored.tokens..];
    let sum: f64 = last.iter().flatten().map(|one| f64::from(one.logp)).sum();
    assert_eq!(sum, scored.logp, "bit for bit on the CPU");
    for (one, token) in echoed.iter().flatten().zip(&tokens[given..]) {
        assert_eq!(one.token, *token);
        assert!(one.top.len() == 3 && one.top[0].1 >= one.top[2].1);
        let listed = one.top.iter().find(|(other, _)| other == token);
        assert!(listed.is_none_or(|(_, logp)| *logp == one.logp));
    }
    // The first token is not given: all likelihoods are of the same text.
    let sums: Vec<f64> = (0..4)
        .map(|seed| {
            let drawn = Echo {
                alpha_0: Some(1.0),
                seed,
                ..echo.clone()
            };
            let echoed = block_on(serving.echo(vec![drawn])).unwrap().remove(0);
            assert_eq!(echoed.iter().flatten().count(), tokens.len() - given);
            echoed.iter().flatten().map(|o| f64::from(o.logp)).sum()
        })
        .collect();
    assert!(
        sums.iter().any(|sum| (sum - sums[0]).abs() > 1e-3),
        "{sums:?}"
    );
    for (name, wrong) in [
        (
            "alpha_0",
            Echo {
                alpha_0: Some(2.0),
                ..echo.clone()
            },
        ),
        (
            "at most 256",
            Echo {
                tokens: vec![1; 400],
                ..echo.clone()
            },
        ),
        (
            "vocabulary",
            Echo {
                tokens: vec![1 << 20],
                ..echo.clone()
            },
        ),
    ] {
        let error = block_on(serving.echo(vec![wrong])).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

/// Log-probabilities that come with a text from left to right are those that it scores afterwards.
#[test]
fn texts_come_with_the_log_probabilities_that_they_score() {
    let serving = serving(3);
    let bos = serving.codec().unwrap().ends().bos.unwrap();
    let text = |number: u32| TextRequest {
        request: Request {
            length: Some(30),
            seed: Some(2),
            alpha_0: Some(0.0),
            temperature: Some(0.5),
            top_p: Some(0.9),
            first: number,
            ..Request::default()
        },
        top: Some(1),
        is_watched: number == 0,
        ..TextRequest::default()
    };
    for writing in serving.write((0..4).map(text).collect()).unwrap() {
        let written = block_on(writing.finish()).unwrap();
        assert_eq!(written.tokens[0], bos);
        let echo = Echo {
            tokens: written.tokens.clone(),
            given: 1,
            top: 1,
            ..Echo::default()
        };
        let echoed = block_on(serving.echo(vec![echo])).unwrap().remove(0);
        assert_eq!(written.log_probs[0], None);
        for (own, scored) in written.log_probs.iter().zip(&echoed).skip(1) {
            let (own, scored) = (own.as_ref().unwrap(), scored.as_ref().unwrap());
            assert_eq!((own.token, own.top[0].0), (scored.token, scored.top[0].0));
            assert!((own.logp - scored.logp).abs() < 1e-3, "{own:?} {scored:?}");
        }
    }
}

#[test]
fn models_without_an_exact_likelihood_have_no_log_probabilities_of_given_tokens() {
    for (name, has_one) in [("mdlm", false), ("ar", true)] {
        let files = ModelFiles::new(name, golden::checkpoint(name), None);
        let load = LoadOptions {
            device: DeviceChoice::Cpu,
            ..LoadOptions::default()
        };
        let options = ServingOptions {
            places: 1,
            queue: 4,
            length: None,
        };
        let serving = block_on(Serving::start(files, load, options)).unwrap();
        let echo = Echo {
            tokens: vec![1, 2, 3],
            ..Echo::default()
        };
        match block_on(serving.echo(vec![echo])) {
            Ok(echoed) => assert!(has_one && echoed[0][2].is_some()),
            Err(ServingError::Model(Error::Likelihood(LikelihoodError::NoExact(_)))) => {
                assert!(!has_one);
            }
            Err(error) => panic!("{error}"),
        }
    }
}
