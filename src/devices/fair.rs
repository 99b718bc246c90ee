//! Whose turn it is: one request of each lane after the other, and when the queue is full the longest lane gives way.
//!
//! So whoever asks most waits longest, and a principal with many connections takes one turn where another with one takes one.

use std::collections::VecDeque;

/// On whose behalf devices are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lane {
    /// This server's: the broker's challenge, and its own look at the devices. Never displaced.
    Own,
    /// A client's, by its certificate.
    Principal(String),
}

/// The queue is full, and no lane is longer than the newcomer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// Requests in lanes.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    /// In the order of their turns; none is empty.
    lanes: VecDeque<(Lane, VecDeque<T>)>,
    waiting: usize,
    most: usize,
}

impl<T> FairQueue<T> {
    /// Holds at most `most`, and at least one.
    pub(super) fn new(most: usize) -> Self {
        Self {
            lanes: VecDeque::new(),
            waiting: 0,
            most: most.max(1),
        }
    }

    /// Adds a request at the end of its lane. The newest one of the longest lane makes room where there is none: it is dropped.
    pub(super) fn push(&mut self, lane: Lane, request: T) -> Result<(), Full> {
        if self.waiting >= self.most {
            self.make_room(&lane)?;
        }
        self.waiting = self.waiting.saturating_add(1);
        match self.lanes.iter_mut().find(|(known, _)| *known == lane) {
            Some((_, requests)) => requests.push_back(request),
            None => self.lanes.push_back((lane, [request].into())),
        }
        Ok(())
    }

    /// The next request: the oldest of the lane whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let (lane, mut requests) = self.lanes.pop_front()?;
        let request = requests.pop_front();
        self.waiting = self.waiting.saturating_sub(1);
        if !requests.is_empty() {
            self.lanes.push_back((lane, requests));
        }
        request
    }

    fn make_room(&mut self, for_lane: &Lane) -> Result<(), Full> {
        let held = self.lanes.iter().find(|(lane, _)| lane == for_lane);
        let held = held.map_or(0, |(_, requests)| requests.len());
        let others = self.lanes.iter_mut().enumerate();
        let others = others.filter(|(_, (lane, _))| *lane != Lane::Own && lane != for_lane);
        let longest = others.max_by_key(|(_, (_, requests))| requests.len());
        let Some((place, (_, requests))) = longest else {
            return Err(Full);
        };
        // With one more than the newcomer would have, or the two would displace each other in turn.
        if *for_lane != Lane::Own && requests.len() <= held.saturating_add(1) {
            return Err(Full);
        }
        requests.pop_back();
        if requests.is_empty() {
            self.lanes.remove(place);
        }
        self.waiting = self.waiting.saturating_sub(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Lane {
        Lane::Principal(name.into())
    }

    fn order(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn s14_a_principal_with_many_requests_takes_one_turn_like_the_others() {
        let mut queue = FairQueue::new(10);
        for request in ["a1", "a2", "a3"] {
            queue.push(of("a"), request).unwrap();
        }
        queue.push(of("b"), "b1").unwrap();
        queue.push(Lane::Own, "own").unwrap();
        assert_eq!(order(&mut queue), ["a1", "b1", "own", "a2", "a3"]);
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn s14_the_longest_lane_gives_way_and_never_the_servers_own() {
        let mut queue = FairQueue::new(4);
        queue.push(Lane::Own, "own").unwrap();
        for request in ["a1", "a2", "a3"] {
            queue.push(of("a"), request).unwrap();
        }
        assert_eq!(
            queue.push(of("a"), "a4"),
            Err(Full),
            "its own lane is the longest"
        );
        queue.push(of("b"), "b1").unwrap();
        // One each and two of a: b would have as many as a has.
        assert_eq!(queue.push(of("b"), "b2"), Err(Full));
        queue.push(Lane::Own, "own again").unwrap();
        queue.push(Lane::Own, "and again").unwrap();
        // Of lanes as long as each other the one whose turn is last gives way.
        assert_eq!(order(&mut queue), ["own", "a1", "own again", "and again"]);
        let mut full = FairQueue::new(2);
        full.push(Lane::Own, "own").unwrap();
        full.push(Lane::Own, "again").unwrap();
        assert_eq!(full.push(Lane::Own, "and again"), Err(Full));
        assert_eq!(full.push(of("a"), "a1"), Err(Full));
        assert_eq!(order(&mut full), ["own", "again"]);
    }
}
