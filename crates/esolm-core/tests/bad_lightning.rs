//! Lightning checkpoints whose pickle is valid but whose contents are impossible, and the errors for them. Run with
//! `--nocapture` to read the messages.

mod common;

use common::assert_told;
use common::forge::{
    Value, boolean, call, dict, float, global, int, list, none, plain, program, text, tuple,
};
use common::forged::{Forged, NAMES, open_pickle};
use esolm_core::checkpoint::SourceKind;

/// The first layout of MDLM's code has no section `algo`: there, the parameterization is the family.
#[test]
fn other_parameterizations_are_refused_by_name() {
    for (name, words) in [
        ("sedd", "parameterization|\"sedd\"|SEDD"),
        ("d3pm", "parameterization|\"d3pm\"|D3PM"),
        ("score", "parameterization|\"score\"|other kinds"),
    ] {
        let old = Forged::with(|f| {
            let config = dict(&[("parameterization", text(name)), ("model", dict(&f.model))]);
            f.parameters = vec![("config", config)];
        });
        assert_told(old.open(), words);
    }
}

#[test]
fn lightning_contents() {
    let algo =
        |key: &'static str, value: Value| Forged::with(|f| Forged::set(&mut f.algo, key, value));
    let model =
        |key: &'static str, value: Value| Forged::with(|f| Forged::set(&mut f.model, key, value));
    let short = list(&[plain(&[3, 2], 0)]);
    let swapped = {
        let mut items: Vec<Value> = NAMES
            .iter()
            .filter(|(n, _)| !n.contains("inv_freq"))
            .map(|(_, shape)| plain(shape, 0))
            .collect();
        items.swap(0, 1);
        list(&items)
    };
    for (forged, words) in [
        // EMA without weights
        (
            Forged::with(|f| f.ema = Some(dict(&[("decay", float(0.9))]))),
            "no list of weights|shadow_params",
        ),
        // EMA that is not a dictionary
        (
            Forged::with(|f| f.ema = Some(int(-1))),
            "no list of weights|shadow_params",
        ),
        // EMA too short
        (
            Forged::with(|f| f.ema = Some(dict(&[("shadow_params", short)]))),
            "shadow_params lists 1|12 parameters|cannot be paired",
        ),
        // EMA in another order
        (
            Forged::with(|f| f.ema = Some(dict(&[("shadow_params", swapped)]))),
            "shadow_params[0]|[2]|vocab_embed.embedding|[3, 2]",
        ),
        // another algorithm
        (
            algo("name", text("duo")),
            "hyper_parameters.config|algo.name|\"duo\"|\"esolm\"",
        ),
        // live time input
        (
            algo("time_conditioning", list(&[])),
            "algo.time_conditioning|a list|true or false",
        ),
        // attention and loss of another kind of model
        (
            algo("causal_attention", boolean(false)),
            "\"algo.causal_attention\" of the checkpoint is false|AR is causal",
        ),
        (
            algo("parameterization", text("score")),
            "\"algo.parameterization\"|\"score\"|\"ar\"",
        ),
        // unknown prepend
        (
            algo("prepend_token", text("cls")),
            "prepend_token|cls|\"bos\"",
        ),
        // interpolation
        (
            model("length", text("${data.length}")),
            "model.length|${data.length}|not resolved",
        ),
        // fraction for a size
        (
            model("n_heads", float(1.5)),
            "model.n_heads|1.5|whole number",
        ),
        // no length
        (model("length", none()), "model_length (or length)|add it"),
        // wrong width
        (
            model("hidden_size", int(4)),
            "hidden_size|4|vocab_embed.embedding|2",
        ),
        // missing blocks
        (model("n_blocks", int(2)), "blocks.1.norm1.weight|missing"),
    ] {
        assert_told(forged.open(), words);
    }
    // Files without EMA weights provide the raw ones, and report it.
    for ema in [None, Some(none())] {
        let checkpoint = Forged::with(|f| f.ema = ema).open().unwrap();
        assert_eq!(checkpoint.source(), SourceKind::LightningWithoutEma);
        assert_eq!(
            checkpoint.f32("output_layer.linear.bias").unwrap(),
            [0., 1., 2.]
        );
    }
    // The published scripts set it although AR has no time input.
    algo("time_conditioning", boolean(true)).open().unwrap();
    let state = ("state_dict", dict(&[("backbone.x", plain(&[1], 0))]));
    for (root, words) in [
        // no hyper_parameters
        (
            dict(&[state, ("epoch", int(1))]),
            "no hyper_parameters.config|published code",
        ),
        // no state_dict
        (
            dict(&[("weights", none())]),
            "no state_dict|the .ckpt of Lightning",
        ),
        // list as root
        (list(&[]), "root is a list|the .ckpt of Lightning"),
    ] {
        assert_told(open_pickle(&program(root)), words);
    }
    // Unknown classes beside the weights are skipped, called or not.
    let odd = call(global("os", "system"), tuple(&[text("false")]));
    Forged::with(|f| f.more.push(("callbacks", odd)))
        .open()
        .unwrap();
}
