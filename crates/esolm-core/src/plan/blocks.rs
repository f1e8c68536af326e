//! Block diffusion: blocks from left to right, each by diffusion, and the cache of the clean ones.
//!
//! A position is its own cache slot, and a row at position p of blocks of b attends to the slots below (p / b + 1) b: to its block, both
//! ways, and to those before it. A block's masked rows are computed in each of its steps; its clean ones once, in the first step of the
//! next block, so that no pass is spent on storing alone.
//!
//! Beyond the context the cache is a ring of as many slots: the rows of a block take the slots of the block that leaves the window, and
//! attend to all of them. Then the clean rows of the block before cannot come along, since the block that leaves is still in their window:
//! they take a pass of their own.

use super::schedule;
use super::types::{MAX_PROMPT_ROWS, Phase, PlanOptions, PlanStep, Schedule, SequencePlan};
use crate::reveal::even_counts;
use crate::rng::{Purpose, Stream};

/// The blocks of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Tokens of a block.
    pub size: u32,
    /// Slots of the cache, a whole number of blocks.
    pub window: u32,
}

impl Blocks {
    /// First position of the block of a position.
    pub fn first(self, position: u32) -> u32 {
        position / self.size * self.size
    }

    /// One past the last position of the block of a position.
    pub fn end(self, position: u32) -> u32 {
        self.first(position) + self.size
    }

    /// The slot of a position.
    pub fn slot(self, position: u32) -> u32 {
        position % self.window
    }

    /// The slots that a row at a position attends to.
    pub fn prefix(self, position: u32) -> u32 {
        self.end(position).min(self.window)
    }

    /// Whether the rows of the block that begins at `first` take slots which hold an earlier one.
    pub fn wraps(self, first: u32) -> bool {
        first >= self.window
    }

    /// Passes in which the clean blocks of the positions from..to enter the cache, but for those that can come with the first rows of the
    /// block after them. The second value is how far these passes come.
    pub fn storing(self, from: u32, to: u32) -> (Vec<PlanStep>, u32) {
        let most = (MAX_PROMPT_ROWS as u32 / self.size).max(1) * self.size;
        let (mut steps, mut stored) = (Vec::new(), from);
        loop {
            let alone = self.wraps(to);
            if stored == to || (!alone && to - stored <= most) {
                return (steps, stored);
            }
            // Blocks whose window lost nothing yet can come together.
            let end = match self.wraps(stored) {
                true => stored + self.size,
                false => (stored + most).min(to).min(self.window),
            };
            steps.push(PlanStep::new(Phase::Prompt, stored, end, end));
            stored = end;
        }
    }
}

/// The plan of a sequence. `given` has the given token of each position.
pub(super) fn sequence(
    options: &PlanOptions,
    blocks: Blocks,
    sequence: u32,
    given: &[Option<u32>],
) -> SequencePlan {
    let mut orders = Stream::new(options.seed, sequence, Purpose::Order);
    let mut sizes = Stream::new(options.seed, sequence, Purpose::Schedule);
    let known = (0..).zip(given).filter(|(_, token)| token.is_some());
    let mut order: Vec<u32> = known.map(|(position, _)| position).collect();
    let mut start = order.len() as u32;
    let (mut steps, mut stored) = (Vec::new(), 0);
    for first in (0..given.len() as u32).step_by(blocks.size as usize) {
        let mut free: Vec<u32> = (first..first + blocks.size)
            .filter(|&position| given[position as usize].is_none())
            .collect();
        if free.is_empty() {
            continue;
        }
        let draws = match options.schedule {
            Schedule::Binomial => schedule::binomial_sizes(
                &mut sizes,
                free.len() as u32,
                options.alpha_0,
                options.steps,
            ),
            Schedule::Confidence => even_counts(free.len() as u32, options.steps),
            _ => vec![1; free.len()],
        };
        let chooses = options.schedule == Schedule::Confidence;
        if !chooses && options.schedule != Schedule::LeftToRight {
            orders.shuffle(&mut free);
        }
        order.append(&mut free);
        let (mut own, mut clean) = blocks.storing(stored, first);
        steps.append(&mut own);
        let known = order.len() as u32;
        for size in draws {
            steps.push(match chooses {
                true => PlanStep {
                    least: Some(size),
                    ..PlanStep::new(Phase::Diffusion, clean, start, known)
                },
                false => PlanStep::new(Phase::Diffusion, clean, start, start + size),
            });
            clean = first;
            if !chooses {
                start += size;
            }
        }
        start = known;
        stored = first;
    }
    SequencePlan {
        sequence,
        order,
        known: given.iter().copied().flatten().collect(),
        steps,
    }
}

/// Follows a plan of unknown origin, and says whether its steps can run.
pub(super) struct Follower<'a> {
    blocks: Blocks,
    order: &'a [u32],
    /// Unknown positions of each block.
    unknown: Vec<u32>,
    /// First position of the first block that is not known.
    open: u32,
    /// The clean blocks below it are in the cache.
    stored: u32,
}

impl<'a> Follower<'a> {
    /// Before the first step, when the first `known` entries of `order`, a permutation of a whole number of blocks, are given.
    pub fn new(blocks: Blocks, order: &'a [u32], known: usize) -> Self {
        let mut unknown = vec![blocks.size; order.len() / blocks.size as usize];
        for position in &order[..known] {
            unknown[(position / blocks.size) as usize] -= 1;
        }
        let mut follower = Self {
            blocks,
            order,
            unknown,
            open: 0,
            stored: 0,
        };
        follower.skip_known();
        follower
    }

    fn skip_known(&mut self) {
        let closed = |&&unknown: &&u32| unknown == 0;
        let from = (self.open / self.blocks.size) as usize;
        let more = self.unknown[from..].iter().take_while(closed).count();
        self.open += more as u32 * self.blocks.size;
    }

    /// Takes a step whose entries start..end lie within the order and follow on those that are known. `is_last` is false where they are
    /// drawn again in the next step.
    pub fn follows(&mut self, step: &PlanStep, is_last: bool) -> bool {
        let Blocks { size, window } = self.blocks;
        if !step.clean.is_multiple_of(size) || step.clean > self.stored {
            return false;
        }
        // Up to where clean rows are computed.
        let to = match step.phase {
            Phase::Prompt => step.start,
            _ => self.open,
        };
        // What left the window cannot be computed again, and takes none of its slots while others still attend to it.
        let moves = match step.phase {
            Phase::Prompt => to > window,
            _ => self.blocks.wraps(to),
        };
        let clean = to.saturating_sub(step.clean);
        match step.phase {
            Phase::Prompt => {
                let is_new = to.is_multiple_of(size) && to > self.stored && to <= self.open;
                if !is_new || moves && (clean != size || step.clean != self.stored) {
                    return false;
                }
            }
            Phase::Diffusion => {
                let drawn = &self.order[step.start as usize..step.end as usize];
                let is_own = drawn.iter().all(|&p| self.blocks.first(p) == self.open);
                if !is_own || to < step.clean || moves && clean != 0 {
                    return false;
                }
                if is_last {
                    self.unknown[(self.open / size) as usize] -= drawn.len() as u32;
                    self.skip_known();
                }
            }
            Phase::Sequential => return false,
        }
        self.stored = to;
        true
    }
}
