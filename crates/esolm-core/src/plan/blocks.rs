//! Block diffusion: blocks are written from left to right, each by diffusion, with a cache of the clean ones.
//!
//! A position is its own cache slot. With blocks of b, a row at position p attends to the slots below (p / b + 1) b: to
//! its own block in both directions, and to earlier blocks. A block's masked rows are computed in each of its steps.
//! Its clean rows are computed once, in the first step of the next block, so that no pass is needed just to store them.
//!
//! Beyond the context, the cache is a ring with as many slots as the context has tokens: the rows of a block take the
//! slots of the block that leaves the window, and attend to all slots. In this case the clean rows of the previous
//! block cannot be computed in the same pass, since the block that leaves is still in their window; they take a pass of
//! their own.
//!
//! A decoder's text may begin with a short block, so that the other blocks are counted from the end of its prompt, and
//! may end with one ([`super::PromptTail`]).

use std::ops::Range;

use super::schedule;
use super::tail::PromptTail;
use super::types::{MAX_PROMPT_ROWS, Phase, PlanOptions, PlanStep, Schedule, SequencePlan};
use crate::reveal::Counts;
use crate::rng::{Purpose, Stream};

/// The blocks of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Tokens per block.
    pub size: u32,
    /// Slots of the cache; a whole number of blocks if there are fewer slots than tokens.
    pub window: u32,
    /// Tokens in the text.
    pub length: u32,
    /// Number of tokens, less than a block, by which the first block is shorter.
    pub pad: u32,
}

impl Blocks {
    /// The blocks of a text of `length` tokens, whose first `prompt` tokens may end with a block of their own.
    pub fn new(
        size: usize,
        window: usize,
        length: usize,
        tail: Option<PromptTail>,
        prompt: usize,
    ) -> Self {
        let size = size.max(1) as u32;
        Self {
            size,
            window: window.max(1) as u32,
            length: length as u32,
            pad: match tail {
                Some(PromptTail::Own) => (size - prompt as u32 % size) % size,
                _ => 0,
            },
        }
    }

    /// Index of the block that contains a position.
    fn index(self, position: u32) -> u32 {
        (position + self.pad) / self.size
    }

    /// First position of the block that contains a position.
    pub fn first(self, position: u32) -> u32 {
        (self.index(position) * self.size).saturating_sub(self.pad)
    }

    /// Whether a block begins at a position, or the text ends there.
    fn is_boundary(self, position: u32) -> bool {
        position == self.length || self.first(position) == position
    }

    /// The range of positions of each block.
    pub fn ranges(self) -> impl Iterator<Item = Range<u32>> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = next;
            (first < self.length).then(|| {
                next = self.end(first);
                first..next
            })
        })
    }

    /// One past the last position of the block that contains a position.
    pub fn end(self, position: u32) -> u32 {
        ((self.index(position) + 1) * self.size - self.pad).min(self.length)
    }

    /// The slot of a position.
    pub fn slot(self, position: u32) -> u32 {
        position % self.window
    }

    /// Number of slots that a row at a position attends to.
    pub fn prefix(self, position: u32) -> u32 {
        self.end(position).min(self.window)
    }

    /// Whether the rows of the block that begins at `first` overwrite slots of an earlier block.
    pub fn wraps(self, first: u32) -> bool {
        first >= self.window
    }

    /// Passes in which the clean blocks of the positions from..to enter the cache, except those that can be computed
    /// along with the first rows of the following block. Also returns the position up to which these passes get.
    pub fn storing(self, from: u32, to: u32) -> (Vec<PlanStep>, u32) {
        let most = (MAX_PROMPT_ROWS as u32 / self.size).max(1) * self.size;
        let (mut steps, mut stored) = (Vec::new(), from);
        loop {
            let alone = self.wraps(to);
            if stored == to || (!alone && to - stored <= most) {
                return (steps, stored);
            }
            // Blocks whose window is still complete can be stored together.
            let end = match self.wraps(stored) {
                true => stored + self.size,
                false => self.first(stored + most).min(to).min(self.window),
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
    let counts = options
        .block_rules
        .map_or(Counts::Even, |rules| rules.counts);
    for block in blocks.ranges() {
        let first = block.start;
        let mut free: Vec<u32> = block
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
            Schedule::Confidence => counts.of(free.len() as u32, blocks.size, options.steps),
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

/// Follows a plan of unknown origin, and checks whether its steps can run.
pub(super) struct Follower<'a> {
    blocks: Blocks,
    order: &'a [u32],
    /// Number of unknown positions in each block.
    unknown: Vec<u32>,
    /// First position of the first block that is not known.
    open: u32,
    /// The clean blocks below this position are in the cache.
    stored: u32,
}

impl<'a> Follower<'a> {
    /// The state before the first step, when the first `known` entries of `order`, a permutation of the blocks'
    /// positions, are given.
    pub fn new(blocks: Blocks, order: &'a [u32], known: usize) -> Self {
        let sizes = blocks.ranges().map(|block| block.end - block.start);
        let mut unknown: Vec<u32> = sizes.collect();
        for position in &order[..known] {
            unknown[blocks.index(*position) as usize] -= 1;
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
        while self.open < self.blocks.length
            && self.unknown[self.blocks.index(self.open) as usize] == 0
        {
            self.open = self.blocks.end(self.open);
        }
    }

    /// Follows a step whose entries start..end are within the order, right after those that are known. `is_last` is
    /// false if they are drawn again in the next step.
    pub fn follows(&mut self, step: &PlanStep, is_last: bool) -> bool {
        let Blocks { size, window, .. } = self.blocks;
        // The position may be any number until it is known to lie within the text.
        if step.clean > self.stored || !self.blocks.is_boundary(step.clean) {
            return false;
        }
        // The position up to which clean rows are computed.
        let to = match step.phase {
            Phase::Prompt => step.start,
            _ => self.open,
        };
        // What has left the window cannot be recomputed, and must not overwrite slots that others still attend to.
        let moves = match step.phase {
            Phase::Prompt => to > window,
            _ => self.blocks.wraps(to),
        };
        let clean = to.saturating_sub(step.clean);
        match step.phase {
            Phase::Prompt => {
                let is_new = self.blocks.is_boundary(to) && to > self.stored && to <= self.open;
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
                    self.unknown[self.blocks.index(self.open) as usize] -= drawn.len() as u32;
                    self.skip_known();
                }
            }
            Phase::Sequential => return false,
        }
        self.stored = to;
        true
    }
}
