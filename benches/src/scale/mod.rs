//! Many pods on many simulated nodes under a real API server: how fast each contender brings all of them to a node.

pub mod contender;
mod load;
pub mod nodes;
mod peer;
pub mod plane;
pub mod table;

use std::cell::RefCell;
use std::str::FromStr;

use futures::future::try_join_all;

use crate::Error;
use crate::http::{Connection, Endpoint};

/// How many gangs of how many pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Gangs.
    pub gangs: usize,
    /// Pods of each.
    pub pods: usize,
}

impl Shape {
    /// Pods of all gangs.
    #[must_use]
    pub fn total(self) -> usize {
        self.gangs * self.pods
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('x').and_then(|(gangs, pods)| Some((gangs.parse().ok()?, pods.parse().ok()?)));
        match parts {
            Some((gangs, pods)) if gangs > 0 && pods > 0 => Ok(Self { gangs, pods }),
            Some(_) | None => Err(format!("`{text}` is no shape such as 500x20")),
        }
    }
}

/// Does `each` for every item, on so many connections at the same time.
///
/// # Errors
/// The first that occurs; the rest is not done then.
pub async fn spread<T>(
    endpoint: &Endpoint,
    wide: usize,
    items: impl IntoIterator<Item = T>,
    each: impl AsyncFn(&mut Connection, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let rest = RefCell::new(items.into_iter());
    let one = async || {
        let mut connection = Connection::open(endpoint).await?;
        loop {
            let next = rest.borrow_mut().next();
            let Some(item) = next else { return Ok::<(), Error>(()) };
            each(&mut connection, item).await?;
        }
    };
    try_join_all((0..wide.max(1)).map(|_| one())).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_gangs_times_pods() {
        assert_eq!("500x20".parse(), Ok(Shape { gangs: 500, pods: 20 }));
        assert_eq!(Shape { gangs: 500, pods: 20 }.total(), 10_000);
        for wrong in ["500", "x20", "0x20", "5x-1"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }
}
