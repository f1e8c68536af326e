use super::*;

#[test]
fn overrides_and_defaults() {
    let text = "[data]\ntrain = [\"a.txt\"]\n[run]\nbatch = 4\n";
    let sets = [
        "run.batch=8".to_string(),
        "loss.alpha_0 = 0.5".into(),
        "data.tokenizer=t.json".into(),
        "model.cond_dim=32".into(),
    ];
    let recipe = Recipe::parse(text, &sets).unwrap();
    assert_eq!(recipe.run.batch, 8);
    assert_eq!(recipe.loss.alpha_0, 0.5);
    assert_eq!(recipe.data.tokenizer, Some("t.json".into()));
    assert_eq!(recipe.model.cond_dim, 32);
    assert_eq!(recipe.optimizer, Optimizer::default());
    assert_eq!(Recipe::parse(&recipe.to_toml(), &[]).unwrap(), recipe);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refused = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        Recipe::parse("[data]\ntrain = [\"a.txt\"]\n", &sets)
            .unwrap_err()
            .to_string()
    };
    for (set, named) in [
        ("run.batch=0", "run.batch"),
        ("run.batsch=1", "batsch"),
        ("loss.alpha_0=2", "loss.alpha_0"),
        ("optimizer.lr=nan", "optimizer.lr"),
        ("optimizer.beta_1=0.99999999", "optimizer.beta_1"),
        ("optimizer.beta_2=0.99999999", "optimizer.beta_2"),
        ("optimizer.epsilon=1e-50", "optimizer.epsilon"),
        ("optimizer.weight_decay=1e50", "optimizer.weight_decay"),
        ("model.family=gpt", "gpt"),
        ("data.train=[]", "data.train"),
        ("run.batch=1", "batch_split"),
        ("data.vocab_size=256", "data.vocab_size"),
        ("data.vocab_size=1000000000000", "data.vocab_size"),
        ("model.cond_dim=0", "cond_dim"),
        ("model.block_size=4", "an Eso-LM has no blocks"),
        ("model.family=bd3lm", "has no model.block_size"),
        ("model.family=setdlm", "has no model.set_size"),
        ("model.set_size=4", "an Eso-LM has no sets"),
        ("model.max_set_size=4", "an Eso-LM has no sets"),
        ("run", "run"),
    ] {
        let message = refused(&[set]);
        assert!(message.contains(named), "{set}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

/// Values of the wrong type are rejected in terms of TOML.
#[test]
fn values_of_another_type_are_refused_by_name() {
    for (set, said) in [
        (
            "run.batch=\"x\"",
            "run.batch = \"x\" in the recipe makes no sense; it must be a whole number, 0 or more",
        ),
        ("run.batch=1.5", "it must be a whole number, 0 or more"),
        ("run.batch=-1", "run.batch = -1 in the recipe"),
        ("run.ema=true", "it must be a number"),
        ("optimizer.lr=[1]", "it must be a number"),
        ("data.ascii_only=1", "it must be true or false"),
        (
            "data.train=3",
            "data.train = 3 in the recipe makes no sense; it must be a list",
        ),
        ("data.holdout=[\"a\", 1]", "it must be a list of texts"),
        ("data.train=[\"a\", [\"b\"]]", "it must be a list of texts"),
        ("data.separator=1", "it must be a text"),
        ("loss.kind=x", "it must be \"elbo\" or \"low_var\""),
        ("loss.alpha_0_range=[1]", "it must be a list of two numbers"),
        (
            "model.family=gpt",
            "model.family = \"gpt\" in the recipe makes no sense; it must be one of \"esolm\", \"mdlm\"",
        ),
        (
            "model.family=3",
            "model.family = 3 in the recipe makes no sense; it must be a text",
        ),
    ] {
        let refused = Recipe::parse("[data]\ntrain = [\"a.txt\"]\n", &[set.to_string()]);
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(said), "{set}: {message}");
    }
}

#[test]
fn blocks_divide_the_length_and_their_noise_is_a_range() {
    let parsed = |sets: &[&str]| {
        let sets = ["model.family=bd3lm", "model.block_size=4"]
            .iter()
            .chain(sets);
        let sets: Vec<String> = sets.map(|s| s.to_string()).collect();
        Recipe::parse("[data]\ntrain = [\"a.txt\"]\n", &sets)
    };
    let recipe = parsed(&["loss.noise_range=[0.3, 0.8]", "loss.resample=true"]).unwrap();
    assert_eq!(Recipe::parse(&recipe.to_toml(), &[]).unwrap(), recipe);
    let config = recipe.config(300, 0).unwrap();
    assert_eq!(config.block_size, Some(4));
    assert_eq!(config.noise_range, Some([0.3, 0.8]));
    let whole = parsed(&[]).unwrap().config(300, 0).unwrap();
    assert_eq!(whole.noise_range, Some([1e-3, 1.0]));
    for (sets, named) in [
        (&["model.block_size=0"][..], "model.block_size = 0"),
        (&["model.block_size=5"], "model.length = 128"),
        (&["loss.noise_range=[0, 1]"], "loss.noise_range"),
        (&["loss.noise_range=[0.8, 0.3]"], "loss.noise_range"),
        (&["loss.noise_range=[0.5, 1.1]"], "loss.noise_range"),
        (
            &["loss.noise_range=[0.3, 0.45]", "loss.resample=true"],
            "loss.resample",
        ),
    ] {
        let message = parsed(sets).unwrap_err().to_string();
        assert!(message.contains(named), "{sets:?}: {message}");
    }
}

#[test]
fn sets_fit_the_length() {
    let parsed = |sets: &[&str]| {
        let sets = ["model.family=setdlm", "model.set_size=4"]
            .iter()
            .chain(sets);
        let sets: Vec<String> = sets.map(|s| s.to_string()).collect();
        Recipe::parse("[data]\ntrain = [\"a.txt\"]\n", &sets)
    };
    let recipe = parsed(&[]).unwrap();
    assert_eq!(Recipe::parse(&recipe.to_toml(), &[]).unwrap(), recipe);
    let config = recipe.config(300, 0).unwrap();
    let sets = config.sets.unwrap();
    assert_eq!((sets.desired, sets.largest, sets.keeps_first), (4, 8, true));
    assert_eq!((config.cond_dim, config.block_size), (0, None));
    let same = parsed(&["model.max_set_size=4"]).unwrap();
    assert_eq!(same.config(300, 0).unwrap().sets.unwrap().largest, 4);
    for (sets, named) in [
        (&["model.set_size=0"][..], "model.max_set_size = 0"),
        (&["model.set_size=65"], "model.max_set_size = 130"),
        (&["model.max_set_size=129"], "model.length = 128"),
        (&["model.max_set_size=3"], "model.max_set_size = 3"),
        (&["model.block_size=4"], "a SetDLM has no blocks"),
    ] {
        let message = parsed(sets).unwrap_err().to_string();
        assert!(message.contains(named), "{sets:?}: {message}");
    }
}
