use esolm_stories::TOKENIZER;
use proptest::prelude::*;

use super::*;
use crate::config::{AttentionKind, Family, ModelConfig, Prepend};
use crate::rng::philox4x32;
use crate::stop::StopRule;
use crate::text::Ends;

const MASK: u32 = 3968;

fn codec() -> TextCodec {
    let config = ModelConfig {
        family: Family::EsoLm,
        hidden: 192,
        cond_dim: 64,
        n_blocks: 6,
        n_heads: 6,
        length: 128,
        vocab_size: 3969,
        mask_index: MASK,
        alpha_0: Some(0.25),
        prepend: Prepend::None,
        bos: None,
        eos: None,
        more_eos: Vec::new(),
        dropout: 0.0,
        attention: AttentionKind::Causal,
        block_size: None,
        noise_range: None,
        sets: None,
        decoder: None,
    };
    TextCodec::from_bytes(TOKENIZER.as_bytes(), &config).expect("the shipped tokenizer")
}

fn rules(strings: &[&str]) -> StopRules {
    StopRules {
        rules: Vec::new(),
        strings: strings.iter().map(ToString::to_string).collect(),
        ends: Ends {
            bos: Some(0),
            eos: Some(0),
            more: Vec::new(),
        },
    }
}

/// Writes `tokens` in `order` after the first `known`, in batches of the given sizes. Returns the kept tokens, where
/// the text ended, and after how many tokens this was noticed.
fn write(
    rules: &StopRules,
    tokens: &[u32],
    known: usize,
    order: &[usize],
    size: usize,
) -> (Vec<u32>, Ending, usize) {
    let codec = codec();
    let given: Vec<(u32, u32)> = (0..).zip(tokens[..known].iter().copied()).collect();
    let mut start = vec![MASK; tokens.len()];
    start[..known].copy_from_slice(&tokens[..known]);
    let mut watch = Watch::new(rules, Some(&codec), MASK, None, &given, start);
    let mut seen = 0;
    for places in order.chunks(size) {
        for &place in places {
            watch.reveal(place as u32, tokens[place]);
        }
        seen += places.len();
        if watch.look() {
            break;
        }
    }
    let mut read = vec![MASK; tokens.len()];
    read[..known].copy_from_slice(&tokens[..known]);
    for &place in &order[..seen] {
        read[place] = tokens[place];
    }
    let (kept, ending) = watch.finish(read);
    (kept, ending, seen)
}

fn left_to_right(known: usize, all: usize) -> Vec<usize> {
    (known..all).collect()
}

#[test]
fn a_text_ends_before_a_stop_string_across_tokens() {
    let text = "One day, Lily saw a big dog. She said hello to the dog. The end.";
    let mut tokens = vec![0];
    tokens.extend(codec().encode(text).unwrap());
    let order = left_to_right(1, tokens.len());
    for (stop, kept) in [
        (" big d", "One day, Lily saw a"),
        ("ily", "One day, L"),
        (". She", "One day, Lily saw a big dog"),
        (".", "One day, Lily saw a big dog"),
        ("One", ""),
    ] {
        let rules = rules(&[stop]);
        let (kept_tokens, ending, seen) = write(&rules, &tokens, 1, &order, 1);
        assert_eq!(ending.finish, Finish::Stop, "{stop}");
        assert_eq!(ending.text.as_deref(), Some(kept), "{stop}");
        assert!(ending.is_early && seen < order.len(), "{stop}");
        assert!(
            codec().decode_plain(&kept_tokens).starts_with(kept),
            "{stop}"
        );
        // The last token kept contributes to the text.
        let before = &kept_tokens[..kept_tokens.len() - 1];
        assert!(codec().decode_plain(before).len() <= kept.len(), "{stop}");
    }
    let (kept, ending, seen) = write(&rules(&["cat", "z"]), &tokens, 1, &order, 1);
    assert_eq!((ending.finish, ending.text), (Finish::Length, None));
    assert_eq!((kept, seen), (tokens.clone(), order.len()));
    assert!(!ending.is_early);
}

#[test]
fn the_stop_string_that_is_complete_first_counts() {
    let mut tokens = vec![0];
    tokens.extend(codec().encode("She saw a dog and a cat.").unwrap());
    // "dog" is complete before the string that begins before it.
    let rules = rules(&["saw a dog and a", "dog"]);
    for size in 1..tokens.len() {
        let order = left_to_right(1, tokens.len());
        let (_, ending, _) = write(&rules, &tokens, 1, &order, size);
        assert_eq!(ending.text.as_deref(), Some("She saw a "), "{size} at once");
    }
}

#[test]
fn what_was_given_does_not_stop_a_text() {
    let text = "The end. The dog was happy. The end.";
    let mut tokens = vec![0];
    tokens.extend(codec().encode(text).unwrap());
    let prompt = 1 + codec().encode("The end. The dog").unwrap().len();
    let order = left_to_right(prompt, tokens.len());
    let (_, ending, _) = write(&rules(&["The end", "dog was"]), &tokens, prompt, &order, 1);
    let text = ending.text.expect("a stop string");
    assert_eq!(text, "The end. The dog was happy. ");
    // Nor does a string that begins in it.
    let (_, ending, _) = write(&rules(&[" dog was"]), &tokens, prompt, &order, 1);
    assert_eq!(ending.finish, Finish::Length);
}

#[test]
fn an_end_of_text_before_it_ends_the_text() {
    let codec = codec();
    let mut tokens = vec![0];
    tokens.extend(codec.encode("A dog ran.").unwrap());
    let end = tokens.len();
    tokens.push(0);
    tokens.extend(codec.encode(" A cat ran.").unwrap());
    let order = left_to_right(1, tokens.len());
    let (kept, ending, seen) = write(&rules(&["cat"]), &tokens, 1, &order, 1);
    assert_eq!((ending.finish, ending.is_early), (Finish::Eos, true));
    assert_eq!((kept.len(), seen), (end + 1, end));
    // Without a stop string, all tokens are kept.
    let (kept, ending, _) = write(&rules(&[]), &tokens, 1, &order, 1);
    assert_eq!((ending.finish, ending.is_early), (Finish::Eos, false));
    assert_eq!(kept, tokens);
}

/// Regardless of the order of writing and of how many tokens become known at once, the text is the same as when cut at
/// the end.
#[test]
fn the_order_of_writing_changes_nothing() {
    let codec = codec();
    let text =
        "Tom found a caf\u{e9} \u{1f600} near the park. He ate a \u{e9}clair, then he ran home.";
    let mut tokens = vec![0];
    tokens.extend(codec.encode(text).unwrap());
    let sets: [&[&str]; 6] = [
        &["\u{e9} \u{1f600}"],
        &["\u{1f600}"],
        &["\u{e9}c", "park. He"],
        &["lair", "air,", "home"],
        &["."],
        &["none of this"],
    ];
    for strings in sets {
        let rules = rules(strings);
        let all = left_to_right(1, tokens.len());
        let (kept, whole, _) = write(&rules, &tokens, 1, &all, all.len());
        let cut = strings.iter().filter_map(|stop| text.find(stop)).min();
        assert_eq!(whole.text.as_deref(), cut.map(|cut| &text[..cut]));
        for seed in 0..40 {
            let mut order = all.clone();
            order.sort_by_key(|&place| philox4x32([place as u32, seed, 0, 0], [7, 7]));
            let size = 1 + seed as usize % 7;
            let (also, ending, _) = write(&rules, &tokens, 1, &order, size);
            assert_eq!(
                (&also, &ending),
                (&kept, &whole),
                "{strings:?}, seed {seed}"
            );
        }
    }
}

/// A gap before a stop string keeps it from counting.
#[test]
fn only_the_finished_prefix_counts() {
    let codec = codec();
    let mut tokens = vec![0];
    tokens.extend(codec.encode("She saw a dog. Then a cat.").unwrap());
    let rules = rules(&["cat", "dog"]);
    let given: Vec<(u32, u32)> = vec![(0, 0)];
    let mut start = vec![MASK; tokens.len()];
    start[0] = 0;
    let mut watch = Watch::new(&rules, Some(&codec), MASK, None, &given, start);
    for (place, &token) in (0..).zip(&tokens).skip(2) {
        watch.reveal(place, token);
        assert!(!watch.look(), "position 1 is not known");
    }
    assert_eq!((watch.prefix().len(), watch.text().as_str()), (1, ""));
    watch.reveal(1, tokens[1]);
    assert!(watch.look());
    assert_eq!(watch.text(), "She saw a ");
    assert!(!watch.look(), "told once");
}

#[test]
fn a_stopped_run_is_interrupted_unless_the_text_had_ended() {
    let codec = codec();
    let mut tokens = vec![0];
    tokens.extend(codec.encode("She saw a dog. Then a cat.").unwrap());
    let last = tokens.len() - 1;
    let rules = rules(&["dog"]);
    let finish = |hole: usize| {
        let mut read = tokens.clone();
        read[hole] = MASK;
        let start = read.clone();
        let watch = Watch::new(&rules, Some(&codec), MASK, None, &[(0, 0)], start);
        watch.finish(read).1
    };
    assert_eq!(finish(2).finish, Finish::Interrupted);
    assert_eq!(finish(2).text, None);
    assert_eq!(finish(last).finish, Finish::Stop);
    assert_eq!(finish(last).text.as_deref(), Some("She saw a "));
}

#[test]
fn rules_and_stop_strings_go_together() {
    let codec = codec();
    let mut tokens = vec![0];
    tokens.extend(codec.encode("A dog ran and a cat sat.").unwrap());
    tokens.resize(16, 0);
    let known = vec![(0, 0)];
    for (strings, text, finish) in [
        (&["cat"][..], Some("A dog ran and a "), Finish::Stop),
        (&["bird"], None, Finish::Eos),
    ] {
        let rules = StopRules {
            rules: vec![StopRule::Eos],
            ..rules(strings)
        };
        let watch = Watch::new(
            &rules,
            Some(&codec),
            MASK,
            Some(4),
            &known,
            vec![MASK; tokens.len()],
        );
        let (_, ending) = watch.finish(tokens.clone());
        assert_eq!((ending.text.as_deref(), ending.finish), (text, finish));
    }
}

/// Where a text ends by definition: before the stop string that is complete first among those that begin in a token that
/// was not given.
fn plain_ending(
    codec: &TextCodec,
    strings: &[&str],
    tokens: &[u32],
    given: &[(u32, u32)],
) -> Option<String> {
    let until = given.last().map_or(0, |&(last, _)| last as usize + 1);
    let body = until_eos(tokens, until, &rules(&[]).ends);
    let text = codec.decode_plain(body);
    let token = |start: usize| {
        (0..body.len())
            .find(|&token| covered(codec, &body[..=token], &text) > start)
            .expect("some token says it")
    };
    let mut first: Option<(usize, usize)> = None;
    for stop in strings {
        for start in
            (0..text.len()).filter(|&at| text.as_bytes()[at..].starts_with(stop.as_bytes()))
        {
            let is_given = given
                .iter()
                .any(|&(place, _)| place as usize == token(start));
            let found = (start + stop.len(), start);
            if !is_given && first.is_none_or(|best| found < best) {
                first = Some(found);
            }
        }
    }
    first.map(|(_, start)| text[..start].into())
}

/// Texts of few different characters, among them some of several tokens, of which two begin with the byte that an
/// incomplete character begins with.
fn any_pieces() -> impl Strategy<Value = Vec<&'static str>> {
    let pieces = [
        " a",
        "b",
        "ab",
        "\n",
        "\u{e9}",
        "\u{ff01}",
        "\u{1f600}",
        "\u{ff01}\u{ff01}",
        "<|endoftext|>",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is given, be it a prompt or parts of a template, even a part of a character, and whether a text is
    /// watched all the time or looked at anew after each step.
    #[test]
    fn a_text_ends_where_its_first_written_stop_string_begins(
        pieces in any_pieces(),
        strings in prop::collection::vec(any_pieces().prop_map(|stop| stop[..stop.len().min(2)].concat()), 1..4),
        stretches in prop::collection::vec(0usize..8, 1..7),
        size in 1usize..5,
        is_ordered in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let codec = codec();
        let mut tokens = vec![0];
        tokens.extend(codec.encode(&pieces.concat()).unwrap());
        // Stretches of given and of written tokens take turns.
        let mut is_given: Vec<bool> = (stretches.iter().enumerate())
            .flat_map(|(index, &count)| vec![index % 2 == 0; count + usize::from(index == 0)])
            .collect();
        is_given.resize(tokens.len(), false);
        let given: Vec<(u32, u32)> = (0..).zip(&tokens).zip(&is_given)
            .filter(|(_, is_given)| **is_given)
            .map(|((position, &token), _)| (position, token))
            .collect();
        let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
        let expected = plain_ending(&codec, &strings, &tokens, &given);

        let rules = rules(&strings);
        let mut read: Vec<u32> = tokens.iter().zip(&is_given)
            .map(|(&token, &is_given)| if is_given { token } else { MASK })
            .collect();
        let watch = |read: &[u32]| Watch::new(&rules, Some(&codec), MASK, None, &given, read.to_vec());
        prop_assert_eq!(watch(&read).finish(tokens.clone()).1.text, expected.clone());

        let mut order: Vec<usize> = (0..tokens.len()).filter(|&place| !is_given[place]).collect();
        if !is_ordered {
            order.sort_by_key(|&place| philox4x32([place as u32, seed, 0, 0], [7, 7]));
        }
        let (mut kept, mut examined) = (watch(&read), Examined::default());
        for places in order.chunks(size) {
            for &place in places {
                read[place] = tokens[place];
                kept.reveal(place as u32, tokens[place]);
            }
            let mut anew = watch(&read).after(examined);
            let has_ended = anew.look();
            prop_assert_eq!(has_ended, kept.look());
            prop_assert_eq!(anew.ending(), kept.ending());
            prop_assert_eq!((anew.prefix(), anew.text()), (kept.prefix(), kept.text()));
            if has_ended {
                break;
            }
            examined = anew.examined();
        }
        prop_assert_eq!(kept.finish(read).1.text, expected);
    }
}
