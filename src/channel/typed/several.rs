//! `[both]` Several descriptors at once: counted, checked, then made, so that nothing is made of a message that is
//! wrong.

use std::os::fd::OwnedFd;
use std::vec::Drain;

use super::{Checked, FromDescriptor, check};
use crate::error::TakeError;

/// Behind [`FromDescriptors`](super::FromDescriptors), for nobody else to implement.
pub trait Several: Sized {
    fn check(fds: &[OwnedFd]) -> Result<(), TakeError>;

    /// Of descriptors that were checked, all of them.
    fn make(fds: Drain<'_, OwnedFd>) -> Self;
}

impl<T: FromDescriptor> Several for Vec<T> {
    fn check(fds: &[OwnedFd]) -> Result<(), TakeError> {
        fds.iter().enumerate().try_for_each(|(position, fd)| check::<T>(position, fd))
    }

    fn make(fds: Drain<'_, OwnedFd>) -> Self {
        fds.map(|fd| T::from_checked(Checked::new(fd))).collect()
    }
}

impl<T: FromDescriptor, const N: usize> Several for [T; N] {
    fn check(fds: &[OwnedFd]) -> Result<(), TakeError> {
        count(N, fds)?;
        Vec::<T>::check(fds)
    }

    fn make(mut fds: Drain<'_, OwnedFd>) -> Self {
        std::array::from_fn(|_| next(&mut fds))
    }
}

macro_rules! tuple {
    ($count:literal: $($position:literal $T:ident),*) => {
        impl<$($T: FromDescriptor),*> Several for ($($T,)*) {
            fn check(fds: &[OwnedFd]) -> Result<(), TakeError> {
                count($count, fds)?;
                $(check::<$T>($position, &fds[$position])?;)*
                Ok(())
            }

            #[allow(unused_mut, unused_variables, clippy::unused_unit, reason = "of the tuple of none")]
            fn make(mut fds: Drain<'_, OwnedFd>) -> Self {
                ($(next::<$T>(&mut fds),)*)
            }
        }
    };
}

tuple!(0:);
tuple!(1: 0 A);
tuple!(2: 0 A, 1 B);
tuple!(3: 0 A, 1 B, 2 C);
tuple!(4: 0 A, 1 B, 2 C, 3 D);
tuple!(5: 0 A, 1 B, 2 C, 3 D, 4 E);
tuple!(6: 0 A, 1 B, 2 C, 3 D, 4 E, 5 F);

fn count(expected: usize, fds: &[OwnedFd]) -> Result<(), TakeError> {
    let found = fds.len();
    if found == expected { Ok(()) } else { Err(TakeError::WrongCount { expected, found }) }
}

fn next<T: FromDescriptor>(fds: &mut Drain<'_, OwnedFd>) -> T {
    T::from_checked(Checked::new(fds.next().expect("as many as were counted")))
}
