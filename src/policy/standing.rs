//! `[broker]` What one worker may have at this moment of its life.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Denial, Info, Narrowing, NotHeld, Permit, Policy, Why};
use crate::wire::{Ask, Reason, Refusal};

/// A policy, and what has become of it for one worker: the phase, what has been narrowed, and what has been used up.
/// It only ever becomes less, but for a change of phase, which is the broker's word.
///
/// `Send + Sync`. Each decision is made in one piece: a narrowing or a new phase is before it or after it.
#[derive(Debug)]
pub struct Standing {
    policy: Arc<Policy>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: usize,
    kept: Narrowing,
    /// By the rules' places among those that grant one time.
    used_up: Box<[bool]>,
}

/// There is no phase of this name after the present one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no phase \"{0}\" after the present one")]
pub struct NoSuchPhase(pub String);

impl Standing {
    /// At the start of a worker's life.
    #[must_use]
    pub fn new(policy: impl Into<Arc<Policy>>) -> Self {
        let policy = policy.into();
        let used_up = vec![false; policy.once as usize].into();
        Self { policy, state: Mutex::new(State { phase: 0, kept: Narrowing::new(), used_up }) }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The name of the present phase.
    #[must_use]
    pub fn phase(&self) -> &str {
        &self.policy.phases[self.state().phase].name
    }

    /// Decides. What grants one time is used up by [`use_up`](Self::use_up), not by this.
    ///
    /// # Errors
    /// As for [`Policy::decide`].
    pub fn decide<'p>(&'p self, ask: &Ask<'p>) -> Result<Permit<'p>, Denial<'p>> {
        let state = self.state();
        let mut permit = self.policy.judge(state.phase, ask).map_err(|denial| self.over(&state, ask, denial))?;
        let denied = |rule, why| {
            let refusal = Refusal { reason: Reason::Denied, errno: self.policy.refuse_with };
            Err(Denial { refusal, rule, why })
        };
        let spent = |rule: &&Info| rule.once().is_some_and(|once| state.used_up[once]);
        if let Some(rule) = permit.rules().find(spent) {
            return denied(Some(rule), Why::UsedUp);
        }
        if !state.kept.permits(ask) || !state.kept.keeps_both(&permit) {
            return denied(permit.rule(), Why::Narrowed);
        }
        state.kept.restrict(&mut permit);
        Ok(permit)
    }

    /// A denial of what an earlier phase grants is told apart.
    fn over<'p>(&'p self, state: &State, ask: &Ask<'p>, denial: Denial<'p>) -> Denial<'p> {
        // What an option of the policy tells is narrowed as well.
        if denial.refusal.reason != Reason::Denied
            && !matches!(denial.why, Why::Path(_) | Why::Impossible(_))
            && !state.kept.permits(ask)
        {
            let refusal = Refusal { reason: Reason::Denied, errno: self.policy.refuse_with };
            return Denial { refusal, why: Why::Narrowed, ..denial };
        }
        let earlier = (0..state.phase).any(|phase| self.policy.judge(phase, ask).is_ok());
        if earlier { Denial { why: Why::PhaseOver, ..denial } } else { denial }
    }

    /// Leaves less from now on, from the next decision on, in this phase and in later ones. May be said any number of
    /// times; what is remembered is the last of them, which all before it hold.
    ///
    /// # Errors
    /// It asks for more than is held: than the rules of this phase or a later one are about, or than earlier narrowings
    /// have left. Nothing changes.
    pub fn narrow(&self, narrowing: &Narrowing) -> Result<(), NotHeld> {
        let mut state = self.state();
        let kept = state.kept.narrowed(narrowing)?;
        self.policy.holds(state.phase, narrowing)?;
        state.kept = kept;
        Ok(())
    }

    /// Says that what `rule`, of this policy, granted has been had. Two threads that decide before one of them says so
    /// are both granted it: one thread serves a worker.
    pub fn use_up(&self, rule: &Info) {
        if let Some(once) = rule.once() {
            if let Some(used_up) = self.state().used_up.get_mut(once) {
                *used_up = true;
            }
        }
    }

    /// Says that what `rule` granted has not been had after all: it could not be sent.
    pub(crate) fn give_back(&self, rule: &Info) {
        if let Some(once) = rule.once() {
            self.state().used_up[once] = false;
        }
    }

    /// The rule with this number, from 1.
    pub(crate) fn rule(&self, number: u32) -> Option<&Info> {
        self.policy.rules.get((number as usize).checked_sub(1)?).map(|rule| &rule.info)
    }

    /// Begins a later phase. What only earlier ones grant is granted no more, from the next decision on.
    ///
    /// # Errors
    /// There is none of this name after the present one; nothing changes.
    pub fn enter(&self, phase: &str) -> Result<(), NoSuchPhase> {
        let mut state = self.state();
        let later = self.policy.phases.iter().skip(state.phase + 1).position(|later| &*later.name == phase);
        state.phase += 1 + later.ok_or_else(|| NoSuchPhase(phase.to_owned()))?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
