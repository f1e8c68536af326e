use esolm_stories::TOKENIZER;

use super::*;
use crate::config::{AttentionKind, Decoder, DecoderKind};
use crate::plan::{BlockRules, MAX_LENGTH};
use crate::reveal::Counts;
use crate::stop::Finish;

fn config(family: Family) -> ModelConfig {
    ModelConfig {
        family,
        hidden: 256,
        cond_dim: 16,
        n_blocks: 3,
        n_heads: 8,
        length: 64,
        vocab_size: 3969,
        mask_index: 3968,
        alpha_0: Some(0.25),
        prepend: Prepend::None,
        bos: None,
        eos: None,
        more_eos: Vec::new(),
        dropout: 0.0,
        attention: match family {
            Family::Mdlm => AttentionKind::Bidirectional,
            Family::Bd3Lm => AttentionKind::Block,
            _ => AttentionKind::Causal,
        },
        block_size: (family == Family::Bd3Lm).then_some(8),
        noise_range: None,
        sets: None,
        decoder: None,
    }
}

fn codec() -> TextCodec {
    TextCodec::from_bytes(TOKENIZER.as_bytes(), &config(Family::EsoLm))
        .expect("the shipped tokenizer")
}

fn resolve(request: &Request, family: Family) -> Result<Resolved, RequestError> {
    request.resolve(&config(family), Some(&codec()))
}

fn refused(request: &Request, family: Family) -> String {
    resolve(request, family)
        .expect_err("it must be refused")
        .to_string()
}

#[test]
fn what_is_left_out_comes_from_the_model() {
    let resolved = resolve(&Request::default(), Family::EsoLm).unwrap();
    let options = &resolved.options;
    assert_eq!((options.length, options.steps), (64, 64));
    assert_eq!(
        (options.alpha_0, options.schedule),
        (0.25, Schedule::Binomial)
    );
    assert_eq!((options.seed, options.first_sequence), (0, 0));
    assert_eq!(resolved.sampler, Sampler::default());
    // The opening token is known.
    assert_eq!(resolved.given.known, [[(0, 0)]]);
    assert_eq!(resolved.plan().unwrap().length, 64);
    let ar = resolve(&Request::default(), Family::Ar).unwrap().options;
    assert_eq!((ar.alpha_0, ar.schedule), (0.0, Schedule::LeftToRight));
    let mdlm = resolve(&Request::default(), Family::Mdlm).unwrap().options;
    assert_eq!(mdlm.alpha_0, 1.0);
}

#[test]
fn prompts_and_templates_become_known_tokens() {
    let request = Request {
        prompt: vec!["Once upon".into(), "The".into()],
        batch: Some(4),
        bos: Some(false),
        ..Request::default()
    };
    let given = resolve(&request, Family::EsoLm).unwrap().given;
    let tokens = |text: &str| (0..).zip(codec().encode(text).unwrap()).collect::<Vec<_>>();
    let [once, the] = ["Once upon", "The"].map(tokens);
    assert_eq!(
        given.known,
        [once.clone(), the.clone(), once.clone(), the.clone()]
    );
    assert_eq!(given.until, [once.len(), the.len(), once.len(), the.len()]);

    let request = Request {
        infill: Some("A cat ____{5} home.".into()),
        ..Request::default()
    };
    let resolved = resolve(&request, Family::EsoLm).unwrap();
    assert_eq!(resolved.options.length, resolved.given.until[0]);
    assert_eq!(resolved.given.word_ends.len(), 1);
}

#[test]
fn texts_that_run_on_at_a_word_are_drawn_with_other_numbers() {
    let request = Request {
        infill: Some("A cat ____ home.".into()),
        length: Some(32),
        batch: Some(2),
        ..Request::default()
    };
    let resolved = resolve(&request, Family::EsoLm).unwrap();
    let plan = resolved.plan().unwrap();
    let again = resolved.redraw(&[1], 1).unwrap();
    assert_eq!(again.sequences.len(), 1);
    assert_eq!(again.sequences[0].sequence, 1);
    assert_eq!(again.sequences[0].known, plan.sequences[1].known);
    assert_ne!(again.sequences[0].order, plan.sequences[1].order);
    // A text does not depend on which others are redrawn with it, and shares no seed with any batch.
    let both = resolved.redraw(&[0, 1], 1).unwrap();
    assert_eq!(both.sequences[1], again.sequences[0]);
    let seeds: Vec<u64> = (0..4).map(|attempt| resolved.seed(attempt)).collect();
    assert!((1..4).all(|i| !seeds[..i].contains(&seeds[i])), "{seeds:?}");

    let codec = codec();
    let mut text: Vec<u32> = vec![resolved.options.mask_index; 32];
    for &(position, token) in &resolved.given.known[0] {
        text[position as usize] = token;
    }
    let whole = |word: &str| {
        let mut tokens = text.clone();
        let gap = resolved.given.word_ends[0];
        tokens[gap] = codec.encode(word).unwrap()[0];
        tokens
    };
    let texts = [whole(" ran"), whole("s")];
    assert_eq!(resolved.run_on(&texts, Some(&codec)), [1]);
    assert!(resolved.run_on(&texts, None).is_empty());
}

#[test]
fn what_cannot_be_is_refused() {
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = Request::default();
        change(&mut request);
        request
    };
    let long = with(&|r| r.length = Some(65));
    assert!(refused(&long, Family::EsoLm).contains("context of 64 tokens"));
    let many = with(&|r| r.batch = Some(MAX_BATCH + 1));
    assert!(refused(&many, Family::EsoLm).contains("too many texts"));
    let odd = with(&|r| {
        r.prompt = vec!["a".into(), "b".into()];
        r.batch = Some(3);
    });
    assert!(refused(&odd, Family::EsoLm).contains("do not divide a batch of 3"));
    let full = with(&|r| {
        r.prompt = vec!["Once upon a time there was a dog".into()];
        r.length = Some(3);
    });
    assert!(refused(&full, Family::EsoLm).contains("leaves nothing to write"));
    let both = with(&|r| {
        r.prompt = vec!["a".into()];
        r.infill = Some("a ____ b".into());
    });
    assert!(refused(&both, Family::EsoLm).contains("exclude each other"));
    let alpha = with(&|r| r.alpha_0 = Some(0.5));
    assert!(refused(&alpha, Family::Mdlm).contains("alpha_0 does not apply to an MDLM"));
    assert!(refused(&alpha, Family::Ar).contains("alpha_0 does not apply to an AR model"));
    let steps = with(&|r| r.steps = Some(5));
    assert!(refused(&steps, Family::Ar).contains("steps does not apply"));
    let cold = with(&|r| r.temperature = Some(-1.0));
    assert!(refused(&cold, Family::EsoLm).contains("temperature is -1"));
    let prompt = with(&|r| r.prompt = vec!["a".into()]);
    let without = prompt.resolve(&config(Family::EsoLm), None).unwrap_err();
    assert!(without.to_string().contains("needs a tokenizer"));
}

/// Before they are, so that nothing of that size is allocated.
#[test]
fn what_is_too_large_to_be_planned_is_refused() {
    let length = |length| Request {
        length: Some(length),
        ..Request::default()
    };
    let gaps = Request {
        infill: Some("a ____{16777216} b".repeat(64)),
        ..length(usize::MAX / 8 * 8)
    };
    for request in [&length(MAX_LENGTH + 8), &gaps] {
        let said = refused(request, Family::Bd3Lm);
        assert!(
            said.starts_with("length is ") && said.ends_with("from 1 to 1048576"),
            "{said}"
        );
    }
    assert!(resolve(&length(MAX_LENGTH), Family::Bd3Lm).is_ok());
    let many = Request {
        prompt: vec!["Once upon a time".into()],
        batch: Some(MAX_BATCH),
        ..length(1024)
    };
    let said = refused(&many, Family::Bd3Lm);
    assert!(
        said.starts_with("65536 sequences of 1025 tokens are more than 67108864"),
        "{said}"
    );
    // A decoder's own length follows from what it is given.
    let ar = decoder(Family::Ar, DecoderKind::Qwen3);
    let many = |batch| {
        let request = Request {
            batch: Some(batch),
            ..Request::default()
        };
        request.resolve_tokens(&ar, None, &[5; 1000])
    };
    assert_eq!(many(4).unwrap().given.length, 1128);
    let said = many(MAX_BATCH).unwrap_err().to_string();
    assert!(
        said.starts_with("65536 sequences of 1129 tokens are more than"),
        "{said}"
    );
}

/// A tokenizer may add another token than the configuration names.
#[test]
fn a_decoders_texts_open_with_what_its_tokenizer_adds() {
    let own = |before: &[u32], after: &[u32], is_in_sequence: bool| {
        let mut json: serde_json::Value = serde_json::from_str(TOKENIZER).unwrap();
        let special =
            |id: &u32| serde_json::json!({"SpecialToken": {"id": id.to_string(), "type_id": 0}});
        let text = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
        let single: Vec<_> = before
            .iter()
            .map(special)
            .chain([text])
            .chain(after.iter().map(special))
            .collect();
        let tokens = before.iter().chain(after).map(|id| {
            let id_name = id.to_string();
            (
                id_name.clone(),
                serde_json::json!({"id": id_name, "ids": [id], "tokens": [id_name]}),
            )
        });
        let template = serde_json::json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": single,
            "special_tokens": tokens.collect::<serde_json::Map<_, _>>(),
        });
        let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
        json["post_processor"] = match is_in_sequence {
            true => serde_json::json!({"type": "Sequence", "processors": [bytes, template]}),
            false => template,
        };
        json.to_string().into_bytes()
    };
    let opening = |bos: Option<u32>, json: &[u8], asked: Option<bool>| {
        let config = ModelConfig {
            bos,
            ..decoder(Family::Mdlm, DecoderKind::Qwen2)
        };
        let codec = TextCodec::from_bytes(json, &config).unwrap();
        let request = Request {
            bos: asked,
            ..Request::default()
        };
        let resolved = request.resolve(&config, Some(&codec)).unwrap();
        let known = resolved.given.known[0].first().map(|&(_, token)| token);
        assert_eq!(request.opening(&config, Some(&codec)), known);
        (known, codec.ends().bos)
    };
    for is_in_sequence in [false, true] {
        let adds = own(&[6], &[], is_in_sequence);
        for bos in [None, Some(6), Some(9)] {
            assert_eq!(opening(bos, &adds, None), (Some(6), Some(6)), "{bos:?}");
            assert_eq!(opening(bos, &adds, Some(false)).0, None);
        }
        let both = own(&[6], &[3], is_in_sequence);
        assert_eq!(opening(Some(9), &both, None), (Some(6), Some(6)));
        // What is added only at the end opens nothing.
        let ends = own(&[], &[3], is_in_sequence);
        assert_eq!(opening(Some(9), &ends, None), (None, Some(9)));
        assert_eq!(opening(Some(9), &ends, Some(true)).0, Some(9));
        assert_eq!(opening(Some(3), &ends, None), (None, Some(3)));
    }
    assert_eq!(
        opening(Some(9), TOKENIZER.as_bytes(), None),
        (None, Some(9))
    );
    assert_eq!(
        opening(Some(9), TOKENIZER.as_bytes(), Some(true)).0,
        Some(9)
    );
    // Other networks open with the token of their configuration.
    let config = ModelConfig {
        bos: Some(9),
        ..config(Family::EsoLm)
    };
    let codec = TextCodec::from_bytes(&own(&[6], &[], false), &config).unwrap();
    assert_eq!(Request::default().opening(&config, Some(&codec)), Some(9));
}

#[test]
fn what_a_model_recommends_fills_what_is_left_out() {
    let recommended = Recommended {
        alpha_0: Some(0.125),
        temperature: Some(0.9),
        top_k: None,
        top_p: Some(0.95),
        min_p: Some(0.01),
    };
    let esolm = config(Family::EsoLm);
    let asked = Request {
        top_p: Some(1.0),
        top_k: Some(7),
        seed: Some(3),
        ..Request::default()
    };
    let filled = asked.or(&recommended, &esolm);
    let expected = Request {
        alpha_0: Some(0.125),
        temperature: Some(0.9),
        min_p: Some(0.01),
        ..asked.clone()
    };
    assert_eq!(filled, expected);
    // Without Eso-LM's diffusion there is no alpha_0.
    let as_mdlm = Request {
        decode_as: Some(DecodeAs::Mdlm),
        ..asked.clone()
    };
    let in_blocks = Request {
        schedule: Some(Schedule::Block),
        steps: Some(8),
        ..asked.clone()
    };
    for (request, family) in [
        (&in_blocks, Family::EsoLm),
        (&asked, Family::Ar),
        (&asked, Family::Mdlm),
        (&as_mdlm, Family::EsoLm),
    ] {
        let filled = request.or(&recommended, &config(family));
        assert_eq!((filled.alpha_0, filled.temperature), (None, Some(0.9)));
        resolve(&filled, family).expect("nothing foreign");
    }
}

#[test]
fn confidence_is_a_schedule_of_its_own() {
    let request = Request {
        schedule: Some(Schedule::Confidence),
        steps: Some(4),
        confidence_threshold: Some(0.9),
        ..Request::default()
    };
    for family in [Family::Mdlm, Family::Bd3Lm] {
        let resolved = resolve(&request, family).unwrap();
        assert_eq!(resolved.options.reveal.threshold, Some(0.9));
        let plan = resolved.plan().unwrap();
        assert_eq!(plan.reveal, Some(resolved.options.reveal));
        let header = resolved.header("", &plan, 0, vec![0]);
        assert_eq!(header.confidence_threshold, Some(0.9));
    }
    let plan = resolve(&request, Family::EsoLm).unwrap().plan();
    assert!(
        plan.unwrap_err()
            .to_string()
            .contains("lets the network choose the order")
    );
    assert!(refused(&request, Family::Ar).contains("does not apply to an AR model"));
    // Its network may choose if it runs without a cache.
    let as_mdlm = Request {
        decode_as: Some(DecodeAs::Mdlm),
        ..request.clone()
    };
    assert!(resolve(&as_mdlm, Family::EsoLm).unwrap().plan().is_ok());
    let other = Request {
        schedule: None,
        ..request
    };
    for family in [Family::Mdlm, Family::Bd3Lm] {
        let said = refused(&other, family);
        assert!(said.contains("a schedule other than confidence"), "{said}");
    }
}

/// A decoder with a context of 4096 tokens.
fn decoder(family: Family, kind: DecoderKind) -> ModelConfig {
    ModelConfig {
        length: 4096,
        eos: Some(3),
        block_size: (family == Family::Bd3Lm).then_some(32),
        decoder: Some(Decoder {
            kind,
            kv_heads: 2,
            head_dim: 32,
            inner: 512,
            rotary_base: 1e6,
            eps: 1e-6,
            tied: true,
            attention_bias: false,
            mlp_bias: false,
        }),
        ..config(family)
    }
}

fn answer(request: &Request, config: &ModelConfig) -> Result<Resolved, RequestError> {
    request.resolve_tokens(config, None, &[5; 50])
}

#[test]
fn a_decoder_is_sampled_as_published() {
    let bd3lm = decoder(Family::Bd3Lm, DecoderKind::Qwen3);
    let sdar = decoder(Family::Bd3Lm, DecoderKind::Sdar);
    let mdlm = decoder(Family::Mdlm, DecoderKind::Qwen2);
    let some = Request {
        steps: Some(7),
        ..Request::default()
    };
    for (config, length, by, tail, counts, block) in [
        (
            &bd3lm,
            178,
            Confidence::Model,
            PromptTail::Own,
            Counts::Linear,
            32,
        ),
        (
            &mdlm,
            178,
            Confidence::Model,
            PromptTail::Own,
            Counts::Linear,
            32,
        ),
        // It writes whole blocks.
        (
            &sdar,
            192,
            Confidence::Tempered,
            PromptTail::Shared,
            Counts::Block,
            32,
        ),
    ] {
        let resolved = answer(&some, config).unwrap();
        let options = &resolved.options;
        assert_eq!(options.schedule, Schedule::Confidence);
        assert_eq!((options.length, options.steps), (length, 7));
        assert_eq!(options.reveal.by, by);
        assert_eq!(options.block_rules, Some(BlockRules { tail, counts }));
        assert_eq!(options.block_size, Some(block));
        let ends = match config.family {
            Family::Bd3Lm => vec![StopRule::Eos],
            _ => vec![],
        };
        assert_eq!(resolved.stop.rules, ends);
        resolved.plan().unwrap().check().unwrap();
    }
    let card = Request {
        prompt_tail: Some(PromptTail::Blind),
        confidence: Some(Confidence::Leftmost),
        length: Some(77),
        ..some
    };
    let resolved = answer(&card, &bd3lm).unwrap();
    let rules = resolved.options.block_rules.unwrap();
    assert_eq!(
        (rules.tail, rules.counts),
        (PromptTail::Blind, Counts::Even)
    );
    assert_eq!(resolved.options.reveal.by, Confidence::Leftmost);
    let plan = resolved.plan().unwrap();
    assert_eq!(
        (plan.length, plan.prompt_tail),
        (77, Some(PromptTail::Blind))
    );
}

#[test]
fn a_decoders_answer_ends_after_the_block_with_its_end_of_text_token() {
    let bd3lm = decoder(Family::Bd3Lm, DecoderKind::Qwen3);
    let prompt = [3, 5, 3, 6];
    let resolved = Request::default()
        .resolve_tokens(&bd3lm, None, &prompt)
        .unwrap();
    let mut tokens = prompt.to_vec();
    tokens.resize(resolved.options.length, 3968);
    let mut watch = resolved.watch(0, tokens, None);
    for position in 4..36 {
        assert!(!watch.look(), "before {position}");
        watch.reveal(position, if position == 9 { 3 } else { 7 });
    }
    assert!(watch.look());
    let ending = watch.ending().unwrap();
    assert_eq!((ending.finish, ending.tokens), (Finish::Eos, 10));
}

#[test]
fn a_decoders_answer_ends_with_any_of_its_end_of_text_tokens() {
    let ends = |family, kind| ModelConfig {
        more_eos: vec![9],
        ..decoder(family, kind)
    };
    // In blocks after the block, from left to right immediately; an MDLM's text is only cut there.
    for (config, end) in [
        (ends(Family::Bd3Lm, DecoderKind::Qwen3), Some(82)),
        (ends(Family::Ar, DecoderKind::Llama), Some(60)),
        (ends(Family::Mdlm, DecoderKind::Qwen3), None),
    ] {
        let resolved = answer(&Request::default(), &config).unwrap();
        // For an AR model too, 128 tokens are written by default.
        assert_eq!(resolved.options.length, 178);
        let known = &resolved.given.known[0];
        let mut tokens: Vec<u32> = known.iter().map(|&(_, token)| token).collect();
        tokens.resize(178, 3968);
        let mut watch = resolved.watch(0, tokens.clone(), None);
        let mut ended = None;
        for (position, token) in (50..178).zip((0..).map(|i| if i == 9 { 9 } else { 7 })) {
            tokens[position as usize] = token;
            watch.reveal(position, token);
            if watch.look() {
                ended.get_or_insert(position as usize + 1);
            }
        }
        assert_eq!(ended, end, "{}", config.family);
        let (kept, ending) = watch.finish(tokens);
        assert_eq!(ending.finish, Finish::Eos);
        let until = if end.is_some() { 60 } else { 178 };
        assert_eq!(kept.len(), until, "{}", config.family);
    }
}

#[test]
fn tokens_to_leave_out_are_found_by_number_and_by_name() {
    let named = |names: &[&str]| {
        let tokens = names.iter().map(|name| name.parse().unwrap());
        tokens.collect::<Vec<TokenName>>()
    };
    let request = |suppress: &[&str], begin: &[&str]| Request {
        suppress_tokens: named(suppress),
        begin_suppress_tokens: named(begin),
        schedule: Some(Schedule::Confidence),
        ..Request::default()
    };
    let the = codec().encode(" the").unwrap();
    let asked = request(&["7", " the", "<|endoftext|>", "7"], &["9", "3"]);
    let resolved = resolve(&asked, Family::Mdlm).unwrap();
    let mut expected = vec![0, 7, the[0]];
    expected.sort_unstable();
    assert_eq!((the.len(), resolved.suppressed), (1, expected));
    assert_eq!(resolved.unsure, [3, 9]);
    // JSON has both.
    let json = serde_json::to_string(&asked).unwrap();
    assert!(
        json.contains(r#""suppress_tokens":[7," the","<|endoftext|>",7]"#),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), asked);

    for (request, words) in [
        (
            request(&["3969"], &[]),
            "3969 in suppress_tokens is not one token",
        ),
        (
            request(&["once upon"], &[]),
            "\"once upon\" in suppress_tokens is not one",
        ),
        (
            request(&[], &["4000"]),
            "4000 in begin_suppress_tokens is not one",
        ),
        (
            Request {
                schedule: None,
                ..request(&[], &["4"])
            },
            "begin_suppress_tokens does not apply to a schedule other than confidence",
        ),
        (
            Request {
                confidence: Some(Confidence::Random),
                ..request(&[], &["4"])
            },
            "begin_suppress_tokens does not apply to an order",
        ),
        (
            Request {
                suppress_tokens: (0..3968).map(TokenName::Number).collect(),
                ..Request::default()
            },
            "suppress_tokens leaves no token to draw",
        ),
    ] {
        let said = refused(&request, Family::Mdlm);
        assert!(said.contains(words), "{said}");
    }
    let mut most = Request {
        suppress_tokens: (0..3967).map(TokenName::Number).collect(),
        ..Request::default()
    };
    assert!(resolve(&most, Family::Mdlm).is_ok());
    most.suppress_tokens = named(&["the"]);
    let said = most.resolve(&config(Family::Mdlm), None).unwrap_err();
    assert!(
        said.to_string()
            .contains("the name of a token needs a tokenizer"),
        "{said}"
    );
}

#[test]
fn what_only_some_decoders_have_is_refused_of_others() {
    let with_tail = Request {
        prompt_tail: Some(PromptTail::Own),
        ..Request::default()
    };
    let long = Request {
        length: Some(5000),
        ..Request::default()
    };
    let by = Request {
        confidence: Some(Confidence::Random),
        schedule: Some(Schedule::FirstHitting),
        ..Request::default()
    };
    let bd3lm = decoder(Family::Bd3Lm, DecoderKind::Qwen3);
    for (request, config, words) in [
        (
            &with_tail,
            config(Family::Bd3Lm),
            "prompt_tail does not apply",
        ),
        (
            &with_tail,
            decoder(Family::Mdlm, DecoderKind::Qwen3),
            "prompt_tail does not apply",
        ),
        (&long, bd3lm.clone(), "context of 4096"),
        (&by, bd3lm, "confidence does not apply"),
    ] {
        let said = answer(request, &config).unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_network_runs_in_other_ways_than_its_own() {
    let asked = |decode_as, block_size| Request {
        decode_as: Some(decode_as),
        block_size,
        seed: Some(3),
        steps: Some(8),
        length: Some(32),
        alpha_0: Some(1.0),
        ..Request::default()
    };
    for family in [Family::EsoLm, Family::Mdlm, Family::Bd3Lm] {
        let resolved = resolve(&asked(DecodeAs::Bd3lm, Some(4)), family).unwrap();
        let plan = resolved.plan().unwrap();
        assert_eq!((plan.family, plan.block_size), (Family::Bd3Lm, Some(4)));
        assert_eq!(resolved.header("", &plan, 0, vec![0]).block_size, Some(4));
        // What is cached is not recomputed: no step has more rows than two blocks.
        assert!((0..plan.nfe()).all(|step| plan.positions_computed(step) <= 8));
    }
    // One block that spans the text is the same as an MDLM.
    let plan = |decode_as, size| {
        let resolved = resolve(&asked(decode_as, size), Family::EsoLm).unwrap();
        resolved.plan().unwrap().sequences
    };
    assert_eq!(plan(DecodeAs::Bd3lm, Some(32)), plan(DecodeAs::Mdlm, None));
    for (decode_as, family, what) in [
        (
            DecodeAs::Bd3lm,
            Family::Ar,
            "decode_as does not apply to an AR",
        ),
        (
            DecodeAs::Bd3lm,
            Family::SetDlm,
            "decode_as does not apply to a SetDLM",
        ),
        (
            DecodeAs::Mdlm,
            Family::Bd3Lm,
            "decode_as does not apply to a BD3-LM",
        ),
    ] {
        let said = refused(&asked(decode_as, None), family);
        assert!(said.contains(what), "{said}");
    }
    // An Eso-LM has no block size of its own.
    let unsaid = resolve(&asked(DecodeAs::Bd3lm, None), Family::EsoLm).unwrap();
    let said = unsaid.plan().unwrap_err().to_string();
    assert!(said.contains("block_size is missing"), "{said}");
    let said = refused(&asked(DecodeAs::Mdlm, Some(4)), Family::EsoLm);
    assert!(
        said.contains("block_size does not apply to an MDLM"),
        "{said}"
    );
}
