//! Whether a training can begin in a folder, or go on from a state there. Nothing here changes anything but the lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use esolm::checkpoint::Checkpoint;
use esolm::config::ModelConfig;

use crate::error::{Changed, TokenizerMark, TrainError};
use crate::recipe::{Model, Recipe};
use crate::state::{self, Progress, State, unusable};
use crate::train::{Event, Options};
use crate::weights::{self, Weights};

/// The name of the file that is locked while a training runs.
const LOCK: &str = "lock";

/// A folder that one training has for itself until it ends, however it ends: the system frees the lock.
pub(crate) struct Claim<'a> {
    out: &'a Path,
    lock: Option<File>,
}

impl<'a> Claim<'a> {
    /// Claims the folder of a training that was begun before, and leaves one that holds none as it is.
    ///
    /// # Errors
    /// [`TrainError::Locked`], [`TrainError::Occupied`] and [`TrainError::NothingToResume`].
    pub fn check(options: &Options<'a>, watch: &mut dyn FnMut(Event)) -> Result<Self, TrainError> {
        let out = options.out;
        let mut claim = Self { out, lock: None };
        if options.resume && has_states(out) || out.join(LOCK).exists() {
            claim.take(watch)?;
        }
        // A run that ended before it saved anything left nothing worth keeping.
        match (options.resume, has_states(out)) {
            (true, false) => Err(TrainError::NothingToResume(out.into())),
            (false, true) => Err(TrainError::Occupied(out.into())),
            _ => Ok(claim),
        }
    }

    /// Makes the folder if need be, and claims it for a training that is sure to begin.
    ///
    /// # Errors
    /// [`TrainError::Locked`] and [`TrainError::Occupied`], if another one began since the check; [`TrainError::Io`].
    pub fn make(&mut self, watch: &mut dyn FnMut(Event)) -> Result<(), TrainError> {
        if self.lock.is_some() {
            return Ok(());
        }
        std::fs::create_dir_all(self.out).map_err(|e| TrainError::write(self.out, e))?;
        self.take(watch)?;
        match has_states(self.out) {
            true => Err(TrainError::Occupied(self.out.into())),
            false => Ok(()),
        }
    }

    fn take(&mut self, watch: &mut dyn FnMut(Event)) -> Result<(), TrainError> {
        let path = self.out.join(LOCK);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| TrainError::write(&path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TrainError::Locked(self.out.into())),
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {
                watch(Event::Note(format!(
                    "{} cannot be locked: start no second training there",
                    self.out.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(TrainError::write(&path, e)),
        }
        self.lock = Some(file);
        Ok(())
    }
}

fn has_states(out: &Path) -> bool {
    !state::list(&out.join("state")).is_empty()
}

/// The recipe of a training in `out`: the file there or, where that is missing, the one that the newest state holds.
///
/// # Errors
/// [`TrainError::NothingToResume`] when there is neither, states that cannot be read, and what [`Recipe::parse`] finds.
pub fn saved_recipe(
    out: &Path,
    overrides: &[String],
    watch: &mut dyn FnMut(Event),
) -> Result<Recipe, TrainError> {
    let path = out.join("recipe.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let (state, progress) = newest(out, Progress::load, &mut |_| {})?;
            watch(Event::Note(format!(
                "{} is missing; taking the recipe that {} holds",
                path.display(),
                state.display()
            )));
            progress.recipe
        }
        Err(e) => return Err(TrainError::read(&path, e)),
    };
    Recipe::parse_saved(&text, overrides)
}

/// The recipe `text` for a training in `out` that goes on. What it does not say of a network that came from a checkpoint is as before.
///
/// # Errors
/// What [`Recipe::parse`] finds.
pub fn resumed_recipe(out: &Path, text: &str, overrides: &[String]) -> Result<Recipe, TrainError> {
    // What is wrong with the folder is said where the training begins.
    match saved_recipe(out, &[], &mut |_| {}) {
        Ok(before) => Recipe::parse_after(text, overrides, &before),
        Err(_) => Recipe::parse(text, overrides),
    }
}

/// The newest state that `load` can read, or what it reads of it.
pub(crate) fn newest<T>(
    out: &Path,
    load: impl Fn(&Path) -> Result<T, TrainError>,
    watch: &mut dyn FnMut(Event),
) -> Result<(PathBuf, T), TrainError> {
    let mut states = state::list(&out.join("state"));
    let Some((_, last)) = states.pop() else {
        return Err(TrainError::NothingToResume(out.into()));
    };
    let error = match load(&last) {
        Ok(state) => return Ok((last, state)),
        Err(error) => error,
    };
    // A damaged file is said, and the state before it taken: states are written whole, so this is rare.
    let Some((_, older)) = states.pop() else {
        return Err(error);
    };
    let state = load(&older).map_err(|_| error)?;
    watch(Event::Note(format!(
        "{} cannot be read; going on from {}",
        last.display(),
        older.display()
    )));
    Ok((older, state))
}

/// Whether the text of this digest is the one that a state was trained on.
pub(crate) fn check_text(
    path: &Path,
    state: &State,
    text: &str,
    options: &Options,
    watch: &mut dyn FnMut(Event),
) -> Result<(), TrainError> {
    match &state.progress.text {
        Some(before) if before == text => {}
        Some(_) if options.accept_changed_text => {
            watch(Event::Note("going on with another training text".into()));
        }
        Some(_) => return Err(TrainError::TextChanged(path.into())),
        None => watch(Event::Note(format!(
            "{} does not say what text it was trained on, so whether this is the same is not checked",
            path.display()
        ))),
    }
    Ok(())
}

/// What a resumed run does otherwise than the one before it: the lines of the recipe that are new, and the keys that are gone.
pub(crate) fn changes(before: &str, now: &str) -> Option<String> {
    let key = |line: &str| line.split(" = ").next().unwrap_or_default().to_string();
    let missing = |from: &str, line: &&str| !from.lines().any(|other| other == *line);
    let new = now.lines().filter(|line| missing(before, line));
    let mut all: Vec<String> = new
        .map(|line| match key(line).as_str() {
            // The weights belong to the tokens that they were trained on.
            key @ ("tokenizer" | "vocab_size") => {
                format!("{key} (without effect: the tokenizer of the folder stays)")
            }
            _ => line.to_string(),
        })
        .collect();
    let gone = before.lines().map(key).filter(|old| {
        let kept = now.lines().any(|line| key(line) == *old);
        !kept && old != "tokenizer"
    });
    all.extend(gone.map(|old| format!("{old} left out")));
    (!all.is_empty()).then(|| format!("going on with changed values: {}", all.join(", ")))
}

const COND_DIM: &str = "model.cond_dim";
const INIT: &str = "model.init";

/// The recipe that a state was saved with. Its values were checked then.
///
/// # Errors
/// [`TrainError::State`] where it cannot be read.
pub(crate) fn recipe_of(path: &Path, progress: &Progress) -> Result<Recipe, TrainError> {
    toml::from_str(&progress.recipe).map_err(|error: toml::de::Error| {
        let reason = format!("its recipe cannot be read ({})", error.message());
        unusable(path, reason)
    })
}

/// The configuration that a state holds of a network whose weights came from a checkpoint.
///
/// # Errors
/// [`TrainError::State`] where it is not one.
pub(crate) fn config_of(path: &Path, state: &State) -> Result<Option<ModelConfig>, TrainError> {
    let json = state.progress.config.as_deref();
    let config = json.map(ModelConfig::from_json).transpose();
    config.map_err(|error| unusable(path, error.to_string()))
}

/// The trained weights of a state, for a network that may have biases which a new one does not.
///
/// # Errors
/// [`TrainError::State`] where they are not those of `config`.
pub(crate) fn weights_of(
    path: &Path,
    state: &State,
    config: &ModelConfig,
) -> Result<Checkpoint, TrainError> {
    weights::checkpoint(&state.raw, config).map_err(|error| unusable(path, error.to_string()))
}

/// Whether the state's weights mean under `recipe` what they meant when they were trained by `saved`. What else a recipe says may change.
///
/// # Errors
/// [`TrainError::NetworkChanged`].
pub(crate) fn check_network(
    path: &Path,
    saved: &Recipe,
    recipe: &Recipe,
) -> Result<(), TrainError> {
    // AR models and SetDLMs have no conditioning, whatever their recipes say.
    let both_conditioned = [saved, recipe].map(|r| r.model.is_conditioned()) == [true; 2];
    let is_same_start = is_same_checkpoint(saved, recipe);
    let changed: Vec<Changed> = meaning(saved)
        .into_iter()
        .zip(meaning(recipe))
        .filter(|(saved, now)| match saved.0 {
            COND_DIM => saved != now && both_conditioned,
            INIT => !is_same_start,
            _ => saved != now,
        })
        .map(|((key, saved), (_, now))| Changed { key, saved, now })
        .collect();
    match changed.is_empty() {
        true => Ok(()),
        false => Err(TrainError::NetworkChanged {
            state: path.into(),
            changed,
        }),
    }
}

/// The values of a recipe that say what the weights mean, as TOML.
fn meaning(recipe: &Recipe) -> [(&'static str, String); 7] {
    let Model {
        family,
        hidden,
        blocks,
        heads,
        cond_dim,
        // Positions are rotations, and have no weights.
        length: _,
        dropout: _,
        // A network can go on in blocks or sets of another size.
        block_size: _,
        set_size: _,
        max_set_size: _,
        ref init,
    } = recipe.model;
    let random = || "none (random weights)".to_string();
    let family_name = toml::Value::try_from(family).expect("a text is TOML");
    [
        ("model.family", family_name.to_string()),
        ("model.hidden", hidden.to_string()),
        ("model.blocks", blocks.to_string()),
        ("model.heads", heads.to_string()),
        (COND_DIM, cond_dim.to_string()),
        // It names the token that opens each document.
        ("data.separator", format!("{:?}", recipe.data.separator)),
        (
            INIT,
            init.as_ref()
                .map_or_else(random, |name| format!("{name:?}")),
        ),
    ]
}

/// Whether two recipes start from the same weights, however their path is written.
fn is_same_checkpoint(a: &Recipe, b: &Recipe) -> bool {
    match (&a.model.init, &b.model.init) {
        (Some(a), Some(b)) => is_same_place(a, b),
        (a, b) => a == b,
    }
}

/// Whether two names of checkpoints lead to the same one.
pub fn is_same_place(a: &str, b: &str) -> bool {
    let place = |name| std::fs::canonicalize(name).ok();
    a == b || (place(a).is_some() && place(a) == place(b))
}

/// Whether the tokenizer of the training in `out`, whose network is `hidden` wide, is the one that a state was trained with.
///
/// # Errors
/// [`TrainError::TokenizerChanged`], and [`TrainError::State`] for a state without embeddings.
pub(crate) fn check_tokenizer(
    path: &Path,
    state: &State,
    out: &Path,
    hidden: usize,
    now: TokenizerMark,
    watch: &mut dyn FnMut(Event),
) -> Result<(), TrainError> {
    let embeddings = state.raw.get("vocab_embed.weight");
    let rows = embeddings.map_or(0, |values| values.dims()[0] / hidden);
    let saved = TokenizerMark {
        // The mask has a row too.
        tokens: (rows.checked_sub(1))
            .ok_or_else(|| unusable(path, "it holds no embeddings".into()))?,
        digest: state.progress.tokenizer.clone(),
    };
    let same_text = saved.digest.is_none() || saved.digest == now.digest;
    if saved.tokens != now.tokens || !same_text {
        return Err(TrainError::TokenizerChanged {
            out: out.into(),
            state: path.into(),
            saved,
            now,
        });
    }
    if saved.digest.is_none() {
        watch(Event::Note(format!(
            "{} does not say what tokenizer it was trained with, so only the number of its tokens is checked",
            path.display()
        )));
    }
    Ok(())
}

/// Whether a state has the parameters of the network that its recipe and its tokenizer give.
pub(crate) fn fits(path: &Path, state: &State, wanted: &Weights) -> Result<(), TrainError> {
    let same = |weights: &Weights| {
        weights.len() == wanted.len()
            && wanted.iter().all(|(name, values)| {
                weights
                    .get(name)
                    .is_some_and(|found| found.dims() == values.dims())
            })
    };
    // There are none before the first step in which a token was masked, and then all.
    let complete = state.moments.is_empty() || state.moments.len() == wanted.len();
    let moments = complete
        && state.moments.iter().all(|(name, moments)| {
            wanted.get(name).is_some_and(|values| {
                moments.first.dims() == values.dims() && moments.second.dims() == values.dims()
            })
        });
    if same(&state.raw) && same(&state.ema) && moments {
        return Ok(());
    }
    Err(unusable(
        path,
        "its tensors are not those of the network in its recipe".into(),
    ))
}
