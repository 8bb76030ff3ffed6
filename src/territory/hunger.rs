//! Who is in want of blocks, and how the others learn of it: locks on bytes that stand for sources.

use super::ground::Ground;
use super::locks::Mode;
use super::shared::{Shared, Side};
use crate::Error;
use std::ops::Range;

impl Shared {
    /// The blocks of those of our sources that another process is in want of.
    pub(super) fn others_starve(&self, ground: &Ground) -> Result<Vec<Range<u32>>, Error> {
        let Some(bytes) = ground.hunger_bytes() else { return Ok(Vec::new()) };
        let hungry = self.file.locks_of_others(bytes)?.into_iter().flatten();
        Ok(hungry.filter_map(|byte| ground.blocks_of_hunger(byte)).collect())
    }

    /// Tells the others that we are in want of blocks of the sources that `among` lies on.
    pub(super) fn starve(
        &self,
        ground: &Ground,
        side: &mut Side,
        among: &Range<u32>,
    ) -> Result<(), Error> {
        for (index, source) in self.sources.iter().enumerate() {
            let blocks = ground.blocks_of(index as u32);
            let concerned = blocks.start < among.end && among.start < blocks.end;
            if concerned && side.hunger.insert(index as u32, None).is_none() {
                let byte = ground.hunger_byte(source);
                // Shared: several may starve at once. An exclusive one exists nowhere.
                let _ = self.file.lock(byte..byte + 1, Mode::Shared)?;
                // Not each time: whoever looks looks again until nobody is in want.
                if !std::mem::replace(&mut side.is_announced, true) {
                    self.file.touch()?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn end_hunger(
        &self,
        ground: &Ground,
        side: &mut Side,
        over: impl Fn(&mut Option<u64>) -> bool,
    ) -> Result<(), Error> {
        let mut ended = Vec::new();
        for (index, until_ms) in &mut side.hunger {
            if over(until_ms) {
                ended.push(*index);
            }
        }
        for index in ended {
            side.hunger.remove(&index);
            let byte = ground.hunger_byte(&self.sources[index as usize]);
            self.file.unlock(byte..byte + 1)?;
        }
        Ok(())
    }
}
