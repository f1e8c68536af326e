//! Whether a training can begin in a folder, or go on from a state there. Nothing here changes anything but the lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Changed, TokenizerMark, TrainError};
use crate::recipe::{Model, Recipe};
use crate::state::{self, Progress, State, unusable};
use crate::train::{Event, Options};
use crate::weights::Weights;

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

/// Whether the state's weights mean under `recipe` what they meant when they were trained. What else a recipe says may change.
///
/// # Errors
/// [`TrainError::NetworkChanged`], and [`TrainError::State`] for a state whose own recipe cannot be read.
pub(crate) fn check_network(
    path: &Path,
    progress: &Progress,
    recipe: &Recipe,
) -> Result<(), TrainError> {
    // Its values were checked when it was saved.
    let saved: Recipe = toml::from_str(&progress.recipe).map_err(|error| {
        let reason = format!("its recipe cannot be read ({})", error.message());
        unusable(path, reason)
    })?;
    // AR models and SetDLMs have no conditioning, whatever their recipes say.
    let both_conditioned = [&saved, recipe].map(|r| r.model.is_conditioned()) == [true; 2];
    let changed: Vec<Changed> = meaning(&saved)
        .into_iter()
        .zip(meaning(recipe))
        .filter(|(saved, now)| saved != now && (saved.0 != COND_DIM || both_conditioned))
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
fn meaning(recipe: &Recipe) -> [(&'static str, String); 6] {
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
    } = recipe.model;
    let family_name = toml::Value::try_from(family).expect("a text is TOML");
    [
        ("model.family", family_name.to_string()),
        ("model.hidden", hidden.to_string()),
        ("model.blocks", blocks.to_string()),
        ("model.heads", heads.to_string()),
        (COND_DIM, cond_dim.to_string()),
        // It names the token that opens each document.
        ("data.separator", format!("{:?}", recipe.data.separator)),
    ]
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
