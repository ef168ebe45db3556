//! An optimizer with its state: takes one step over all tensors, and turns the state into bytes and back.
//! It knows no rule; each is in its own file. It does not clip: `clip_global_norm` comes before it.

use super::groups::{Pace, WidthRule};
use super::run::{Run, Tensor};
use super::state::{State, StateError, owner};
use super::{GroupsConfig, OptimizerConfig};
use crate::config::{OptimizerState, TrainingConfig};
use crate::layout::{Layout, Role};
use crate::schedules::ScheduleConfig;
use crate::trainer::LocalRound;

/// A second gradient that a step needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// None.
    Nothing,
    /// The gradient of the mean loss for labels sampled from the model, on this batch or one like it (Sophia-G).
    SampledLabels,
    /// The gradient of this batch at the parameters before the last step, clipped alike (MARS, exact).
    ParametersBefore,
}

/// What comes into a step.
#[derive(Debug)]
pub struct StepInputs<'a> {
    /// Step of the session, from 0: schedules and warm-ups are functions of it.
    pub step: u64,
    /// The clipped gradient. Coupled weight decay is added to it.
    pub gradient: &'a mut [f32],
    /// The second gradient, where [`Optimizer::wants`] names one.
    pub extra: Option<&'a [f32]>,
    /// Tokens, or samples, whose mean loss the gradient (or the second one) is of.
    pub tokens: u64,
}

impl<'a> StepInputs<'a> {
    /// A step with nothing but a gradient, of one token.
    pub fn of(step: u64, gradient: &'a mut [f32]) -> Self {
        Self {
            step,
            gradient,
            extra: None,
            tokens: 1,
        }
    }
}

/// An optimizer with its state, for one layout.
#[derive(Debug, Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    groups: GroupsConfig,
    schedule: ScheduleConfig,
    layout: Layout,
    owner: [u8; 32],
    state: State,
    decayed: Decayed,
}

/// `∏(1 − γλ)` of hidden matrices over the steps before one: kept, so that it need not be multiplied out at each step.
#[derive(Debug, Clone, Copy)]
struct Decayed {
    step: u64,
    remaining: f64,
}

impl OptimizerConfig {
    /// What some step will need besides the batch's gradient.
    pub fn will_want(&self) -> Extra {
        match self {
            Self::Sophia(sophia) => sophia.wants(0),
            Self::Mars(mars) => mars.wants(1),
            _ => Extra::Nothing,
        }
    }
}

impl Optimizer {
    /// An optimizer that has seen no gradient.
    pub fn new(config: &TrainingConfig, layout: &Layout) -> Self {
        let state = State::new(&sizes(&config.optimizer, layout));
        Self::with_state(config, layout, state)
    }

    /// The optimizer of a round: as the member's last one left it, where that is given and the session wants it.
    pub fn of_round(config: &TrainingConfig, layout: &Layout, local: LocalRound<'_>) -> Result<Self, StateError> {
        if local.optimizer.is_empty() || config.optimizer_state == OptimizerState::Fresh {
            return Ok(Self::new(config, layout));
        }
        let mut optimizer = Self::from_bytes(config, layout, local.optimizer)?;
        optimizer.take_up_at(local.start);
        Ok(optimizer)
    }

    /// What goes on to the member's next round.
    pub fn carried(&self, between_rounds: OptimizerState) -> Vec<u8> {
        match between_rounds {
            OptimizerState::Carry => self.state_bytes(),
            OptimizerState::Fresh => Vec::new(),
        }
    }

    fn with_state(config: &TrainingConfig, layout: &Layout, state: State) -> Self {
        Self {
            config: config.optimizer.clone(),
            groups: config.groups.clone(),
            schedule: config.schedule.clone(),
            layout: layout.clone(),
            owner: owner_of(&config.optimizer, layout),
            state,
            decayed: Decayed {
                step: 0,
                remaining: 1.0,
            },
        }
    }

    /// Steps taken since the state began.
    pub fn steps_taken(&self) -> u64 {
        self.state.count
    }

    /// What the next step needs besides the gradient.
    pub fn wants(&self) -> Extra {
        match &self.config {
            OptimizerConfig::Sophia(sophia) => sophia.wants(self.state.count),
            OptimizerConfig::Mars(mars) => mars.wants(self.state.count),
            _ => Extra::Nothing,
        }
    }

    /// What some later step will need, whether or not the next one does.
    pub fn will_want(&self) -> Extra {
        self.config.will_want()
    }

    /// Takes one step on all of `parameters`.
    ///
    /// # Panics
    /// When a slice is not of the layout, or a second gradient that was wanted is not there.
    pub fn step(&mut self, parameters: &mut [f32], inputs: StepInputs<'_>) {
        let StepInputs {
            step,
            gradient,
            extra,
            tokens,
        } = inputs;
        let len = self.layout.len();
        assert_eq!(parameters.len(), len, "parameters are of the layout");
        assert_eq!(gradient.len(), len, "the gradient is of the layout");
        assert!(
            extra.is_none_or(|extra| extra.len() == len),
            "the second gradient is of the layout"
        );
        assert!(
            extra.is_some() || self.wants() == Extra::Nothing,
            "the second gradient that this step wants is there"
        );
        let schedule = self.schedule.factor(step);
        let width = self.width_factors(step);
        self.state.count += 1;
        let mut tensors = Vec::with_capacity(self.layout.places().len());
        let (mut parameters, mut gradient, mut extra) = (parameters, gradient, extra);
        for (place, buffers) in self.layout.places().iter().zip(&mut self.state.tensors) {
            let (mine, rest) = parameters.split_at_mut(place.count());
            parameters = rest;
            let (my_gradient, rest) = gradient.split_at_mut(place.count());
            gradient = rest;
            let my_extra = extra.map(|extra| extra.split_at(place.count()));
            extra = my_extra.map(|(_, rest)| rest);
            let pace = Pace::of(&self.groups, place.role, schedule, width);
            let coupled = pace.coupled(self.config.weight_decay_of(place.role));
            if coupled > 0.0 {
                let each = my_gradient.iter_mut().zip(&*mine);
                each.for_each(|(g, p)| *g += coupled * p);
            }
            tensors.push(Tensor {
                place,
                parameters: mine,
                gradient: my_gradient,
                extra: my_extra.map(|(mine, _)| mine),
                buffers,
                pace,
            });
        }
        self.config.step(Run {
            tensors,
            count: self.state.count,
            session_count: step + 1,
            tokens,
            schedule,
            numbers: &mut self.state.numbers,
        });
    }

    /// Moves `parameters` from the point that gradients are taken at to the one that is evaluated, exported and exchanged.
    /// Only Schedule-Free tells them apart; call [`Optimizer::to_training_point`] before the next step.
    pub fn to_evaluation_point(&self, parameters: &mut [f32]) {
        if let OptimizerConfig::ScheduleFree(config) = &self.config {
            self.each_first_buffer(parameters, |parameters, point| {
                config.evaluation_point(parameters, point)
            });
        }
    }

    /// Moves `parameters` from the point that is evaluated back to the one that gradients are taken at.
    pub fn to_training_point(&self, parameters: &mut [f32]) {
        if let OptimizerConfig::ScheduleFree(config) = &self.config {
            self.each_first_buffer(parameters, |parameters, point| config.training_point(parameters, point));
        }
    }

    fn each_first_buffer(&self, parameters: &mut [f32], action: impl Fn(&mut [f32], &[f32])) {
        assert_eq!(parameters.len(), self.layout.len(), "parameters are of the layout");
        if self.state.count > 0 {
            for (place, buffers) in self.layout.places().iter().zip(&self.state.tensors) {
                action(&mut parameters[place.range()], &buffers[0]);
            }
        }
    }

    /// Prodigy's estimated length `d`, where the optimizer has one: times its rate and the schedule's factor it is the
    /// learning rate that Adam would have.
    pub fn estimated_length(&self) -> Option<f64> {
        match (&self.config, self.state.count) {
            (OptimizerConfig::Prodigy(_), 1..) => Some(self.state.numbers[1]),
            _ => None,
        }
    }

    /// The canonical bytes of the state: equal states have equal bytes.
    pub fn state_bytes(&self) -> Vec<u8> {
        self.state.to_bytes(&self.owner)
    }

    /// The optimizer behind [`Optimizer::state_bytes`]. Bytes of another length, version, optimizer configuration or layout
    /// are refused; groups and schedule may have changed.
    pub fn from_bytes(config: &TrainingConfig, layout: &Layout, bytes: &[u8]) -> Result<Self, StateError> {
        let owner = owner_of(&config.optimizer, layout);
        let state = State::from_bytes(&owner, &sizes(&config.optimizer, layout), bytes)?;
        Ok(Self::with_state(config, layout, state))
    }

    /// Whether [`Optimizer::from_bytes`] would take these bytes. Nothing is allocated.
    pub fn check_bytes(config: &OptimizerConfig, layout: &Layout, bytes: &[u8]) -> Result<(), StateError> {
        State::check(&owner_of(config, layout), &sizes(config, layout), bytes)
    }

    /// Length of [`Optimizer::state_bytes`].
    pub fn state_len(config: &OptimizerConfig, layout: &Layout) -> usize {
        State::encoded_len(&sizes(config, layout))
    }

    /// Takes up the state at `parameters` to which the outer step has moved the member: moments are of gradients and stay,
    /// but Schedule-Free's mean of points begins again here.
    fn take_up_at(&mut self, parameters: &[f32]) {
        assert_eq!(parameters.len(), self.layout.len(), "parameters are of the layout");
        if let OptimizerConfig::ScheduleFree(_) = &self.config {
            self.state.numbers = [0.0; 2];
            for (place, buffers) in self.layout.places().iter().zip(&mut self.state.tensors) {
                buffers[0].copy_from_slice(&parameters[place.range()]);
            }
        }
    }

    /// The width rule's factors at `step`.
    fn width_factors(&mut self, step: u64) -> (f64, f64) {
        if let WidthRule::DecayAwayWarmup { .. } = self.groups.width {
            if self.decayed.step > step {
                self.decayed = Decayed {
                    step: 0,
                    remaining: 1.0,
                };
            }
            for at in self.decayed.step..step {
                let pace = Pace::of(&self.groups, Role::HiddenMatrix, self.schedule.factor(at), (1.0, 1.0));
                let decay = self.config.weight_decay_of(Role::HiddenMatrix);
                let keep = pace.keep(self.config.learning_rate(), decay);
                self.decayed.remaining *= f64::from(keep);
            }
            self.decayed.step = step;
        }
        self.groups.width.factors(step, self.decayed.remaining)
    }
}

fn sizes(config: &OptimizerConfig, layout: &Layout) -> Vec<Vec<usize>> {
    layout.places().iter().map(|place| config.buffers(place)).collect()
}

fn owner_of(config: &OptimizerConfig, layout: &Layout) -> [u8; 32] {
    let bytes = postcard::to_stdvec(config).expect("a configuration of plain numbers can be encoded");
    owner(&bytes, layout)
}
