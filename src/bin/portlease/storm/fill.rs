//! Opening and holding, tenth by tenth.

use super::plan::Plan;
use super::problem::Problem;
use super::process::{Crew, Id, News};
use super::progress::Progress;
use super::run::{died, problem_of};
use super::tally::Tally;
use super::targets::Targets;
use super::wire::{Batch, Cause, Event, Failure, Order};
use super::wish::Work;

/// Orders are for so small a part of the whole that the bar moves and the workers take turns.
const PARTS: u64 = 200;
const MOST_AT_ONCE: u64 = 5_000;

/// Opens `connections`, tenth by tenth. Each worker fills as the whole does.
pub(crate) fn fill(
    crew: &mut Crew<'_>,
    workers: &[Id],
    plan: &Plan,
    connections: u64,
    targets: &mut Targets,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<(), Problem> {
    let mut fillings: Vec<_> = plan
        .workers
        .iter()
        .map(|worker| Filling { opened: 0, asked: 0, share: worker.share, room: worker.room })
        .collect();
    let at_once = (connections / PARTS).clamp(1, MOST_AT_ONCE);
    let mut last = None;
    for tenth in 1..=10 {
        let goal = (u128::from(connections) * tenth / 10) as u64;
        tally.begin_tenth();
        while tally.opened < goal {
            let busy = fillings.iter().filter(|filling| filling.asked > 0).count();
            let promised = tally.opened + fillings.iter().map(|filling| filling.asked).sum::<u64>();
            let next = next_filling(&fillings).filter(|_| busy < plan.at_a_time && promised < goal);
            if let Some(next) = next {
                let filling = &mut fillings[next];
                filling.asked = at_once.min(goal - promised).min(filling.at_most());
                // Ahead of need: a target that starts late makes dials wait.
                targets.make_room(crew, Work::Fill { connections }, promised + 2 * at_once)?;
                crew.tell(workers[next], &Order::Open { count: filling.asked });
                continue;
            }
            if busy == 0 {
                return Err(problem_of(last.as_ref().unwrap_or(&out_of_room()), tally.opened + 1));
            }
            let (worker, batch) = answer(crew, targets)?;
            let of_worker = workers.iter().position(|id| *id == worker);
            let filling = &mut fillings[of_worker.expect("only workers send batches")];
            filling.asked = 0;
            filling.opened += batch.opened;
            tally.add(&batch);
            progress.set(tally.opened);
            match batch.failure {
                Some(failure) if failure.cause == Cause::Exhausted => {
                    filling.room = filling.opened;
                    last = Some(failure);
                }
                Some(failure) => return Err(problem_of(&failure, tally.opened + 1)),
                None => {}
            }
        }
    }
    Ok(())
}

fn answer(crew: &mut Crew<'_>, targets: &mut Targets) -> Result<(Id, Batch), Problem> {
    loop {
        match crew.wait()? {
            (id, News::Said(Event::Batch(batch))) => return Ok((id, batch)),
            (_, News::Said(Event::Failed(failure))) => return Err(problem_of(&failure, 1)),
            (id, News::Said(Event::Held { count })) => targets.set_held(id, count),
            (_, News::Said(_)) => {}
            (_, News::Gone) => return Err(died()),
        }
    }
}

/// How far a worker has come.
struct Filling {
    opened: u64,
    /// What it was told to open and has not answered for.
    asked: u64,
    share: u64,
    /// What it could hold; what it holds once it is exhausted.
    room: u64,
}

impl Filling {
    /// Up to its share while that lasts, then what others left.
    fn at_most(&self) -> u64 {
        if self.opened < self.share { self.share - self.opened } else { self.room - self.opened }
    }
}

/// The idle worker with room that is furthest behind its share.
fn next_filling(fillings: &[Filling]) -> Option<usize> {
    let part = |filling: &Filling| filling.opened as f64 / filling.share.max(1) as f64;
    (0..fillings.len())
        .filter(|&number| fillings[number].asked == 0)
        .filter(|&number| fillings[number].opened < fillings[number].room)
        .min_by(|&a, &b| part(&fillings[a]).total_cmp(&part(&fillings[b])))
}

fn out_of_room() -> Failure {
    Failure { cause: Cause::Exhausted, text: "every process holds all that it can".to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling(opened: u64, share: u64, room: u64) -> Filling {
        Filling { opened, asked: 0, share, room }
    }

    #[test]
    fn worker_furthest_behind_is_next() {
        assert_eq!(next_filling(&[filling(5, 10, 10), filling(4, 10, 10)]), Some(1));
        assert_eq!(next_filling(&[filling(5, 10, 10), filling(9, 30, 30)]), Some(1));
        let busy = Filling { asked: 1, ..filling(4, 10, 10) };
        assert_eq!(next_filling(&[filling(5, 10, 10), busy]), Some(0));
    }

    #[test]
    fn room_beyond_the_share_is_used_when_others_are_exhausted() {
        let fillings = [filling(4, 10, 4), filling(10, 10, 12)];
        assert_eq!(next_filling(&fillings), Some(1));
        assert_eq!(fillings[1].at_most(), 2);
        assert_eq!(next_filling(&[filling(4, 10, 4), filling(12, 10, 12)]), None);
        assert_eq!(next_filling(&[]), None);
    }
}
