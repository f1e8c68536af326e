use esolm_stories::TOKENIZER;

use super::*;
use crate::config::AttentionKind;

fn config(family: Family) -> ModelConfig {
    ModelConfig {
        family,
        hidden: 192,
        cond_dim: 32,
        n_blocks: 6,
        n_heads: 6,
        length: 64,
        vocab_size: 2049,
        mask_index: 2048,
        alpha_0: Some(0.25),
        prepend: Prepend::None,
        bos: None,
        eos: None,
        dropout: 0.0,
        attention: match family {
            Family::Mdlm => AttentionKind::Bidirectional,
            _ => AttentionKind::Causal,
        },
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
    let expected = Settings {
        family: Family::EsoLm,
        length: 64,
        alpha_0: 0.25,
        steps: 64,
        schedule: Schedule::Binomial,
        top_p: None,
        temperature: 1.0,
        seed: 0,
        first: 0,
        batch: 1,
    };
    assert_eq!(resolved.settings, expected);
    // The opening token is known.
    assert_eq!(resolved.given.known, [[(0, 0)]]);
    assert_eq!(resolved.plan().unwrap().length, 64);
    let ar = resolve(&Request::default(), Family::Ar).unwrap().settings;
    assert_eq!((ar.alpha_0, ar.schedule), (0.0, Schedule::LeftToRight));
    let mdlm = resolve(&Request::default(), Family::Mdlm).unwrap().settings;
    assert_eq!(mdlm.alpha_0, 1.0);
}

#[test]
fn prompts_and_templates_become_known_tokens() {
    let request = Request {
        prompts: vec!["Once upon".into(), "The".into()],
        batch: Some(4),
        no_bos: true,
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
    assert_eq!(resolved.settings.length, resolved.given.until[0]);
    assert_eq!(resolved.given.apart.len(), 1);
}

#[test]
fn texts_that_go_on_with_a_word_are_drawn_with_other_numbers() {
    let request = Request {
        infill: Some("A cat ____ home.".into()),
        length: Some(32),
        batch: Some(2),
        ..Request::default()
    };
    let resolved = resolve(&request, Family::EsoLm).unwrap();
    let plan = resolved.plan().unwrap();
    let mut again = plan.clone();
    resolved.redraw(&mut again, &[1], 1).unwrap();
    assert_eq!(again.sequences[0], plan.sequences[0]);
    assert_eq!(again.sequences[1].sequence, 1 + MAX_BATCH as u32);
    assert_eq!(again.sequences[1].known, plan.sequences[1].known);

    let codec = codec();
    let mut text: Vec<u32> = vec![resolved.options.mask_index; 32];
    for &(position, token) in &resolved.given.known[0] {
        text[position as usize] = token;
    }
    let whole = |word: &str| {
        let mut tokens = text.clone();
        let gap = resolved.given.apart[0];
        tokens[gap] = codec.encode(word).unwrap()[0];
        tokens
    };
    let texts = [whole(" ran"), whole("s")];
    assert_eq!(resolved.broken(&texts, Some(&codec)), [1]);
    assert!(resolved.broken(&texts, None).is_empty());
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
        r.prompts = vec!["a".into(), "b".into()];
        r.batch = Some(3);
    });
    assert!(refused(&odd, Family::EsoLm).contains("do not divide a batch of 3"));
    let full = with(&|r| {
        r.prompts = vec!["Once upon a time there was a dog".into()];
        r.length = Some(3);
    });
    assert!(refused(&full, Family::EsoLm).contains("leaves nothing to write"));
    let both = with(&|r| {
        r.prompts = vec!["a".into()];
        r.infill = Some("a ____ b".into());
    });
    assert!(refused(&both, Family::EsoLm).contains("exclude each other"));
    let alpha = with(&|r| r.alpha_0 = Some(0.5));
    assert!(refused(&alpha, Family::Mdlm).contains("alpha_0 has no meaning for an MDLM"));
    assert!(refused(&alpha, Family::Ar).contains("alpha_0 has no meaning for an AR model"));
    let steps = with(&|r| r.steps = Some(5));
    assert!(refused(&steps, Family::Ar).contains("steps has no meaning"));
    let cold = with(&|r| r.sampler.temperature = -1.0);
    assert!(refused(&cold, Family::EsoLm).contains("temperature is -1"));
    let prompt = with(&|r| r.prompts = vec!["a".into()]);
    let without = prompt.resolve(&config(Family::EsoLm), None).unwrap_err();
    assert!(without.to_string().contains("needs a tokenizer"));
}
