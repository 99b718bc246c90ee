//! Two sides in turns, by the CPU clock of the thread.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Turns of each side after one that is not counted, and how long one lasts at least.
const TURNS: usize = 9;
const TURN: Duration = Duration::from_millis(150);

/// One verification.
pub type Side<'a> = &'a dyn Fn() -> anyhow::Result<()>;

/// Verifications in a second of CPU time: the median turn of each side.
pub fn rates<const N: usize>(sides: [Side<'_>; N]) -> anyhow::Result<[f64; N]> {
    let mut figures = [(); N].map(|()| Vec::new());
    for turn in 0..=TURNS {
        for (side, figures) in sides.iter().zip(&mut figures) {
            let figure = rate(*side)?;
            if turn > 0 {
                figures.push(figure);
            }
        }
    }
    Ok(figures.map(|mut figures| {
        figures.sort_by(f64::total_cmp);
        figures.get(TURNS / 2).copied().unwrap_or(f64::NAN)
    }))
}

fn rate(side: Side<'_>) -> anyhow::Result<f64> {
    let (start, mut count) = (cpu(), 0_u32);
    loop {
        black_box(side())?;
        count += 1;
        let spent = cpu().saturating_sub(start);
        if spent >= TURN {
            return Ok(f64::from(count) / spent.as_secs_f64());
        }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The kernel's CPU clocks begin at zero and only grow.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}
