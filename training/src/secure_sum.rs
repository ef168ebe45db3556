//! The worker's part in secure sums: this member's secrets of one sum, and the arithmetic that everyone repeats.
//! It decides nothing about who is asked for what, and forgets its secrets with the process: a member that restarts has
//! dropped out of the sum that it was in. The cryptography is `aggregation/src/privacy/secure_sum/`.

use synod_aggregation::Composition;
use synod_aggregation::privacy::noise::NoiseSeed;
use synod_aggregation::privacy::secure_sum::{
    GroupMean, KeyAdvert, KeyRoster, MaskedInput, Member, OpenedSum, Opening, SealedShare, SecureSumError,
    ShareDelivery, SumPlan, SumSeed, UnmaskReply, UnmaskRequest, open_sum,
};
use synod_aggregation::privacy::{PrivacyConfig, SecureSumConfig};
use synod_protocol::identity::PeerId;
use synod_protocol::sum::{GroupTerms, OpenSum, Sealed, SumReply, SumRequest, SumResult, SumScope, SumTerms};
use synod_protocol::task::{Round, TaskFailure, TrainReport};

/// What a session's privacy says to the protocol: whether updates are summed securely, how many lift the masks, and in which
/// groups, of which `rule` needs some.
pub fn sum_terms(privacy: &PrivacyConfig, rule: &Composition) -> Option<SumTerms> {
    match privacy {
        PrivacyConfig::SecureSum(sums) => Some(SumTerms {
            threshold: sums.threshold,
            groups: sums
                .group_size
                .zip(sums.group_threshold())
                .map(|(size, least)| GroupTerms {
                    size,
                    least: u8::try_from(least).unwrap_or(u8::MAX),
                    rule_needs: u32::try_from(rule.minimum_contributions()).unwrap_or(u32::MAX),
                }),
        }),
        PrivacyConfig::None | PrivacyConfig::LocalDp(_) | PrivacyConfig::CentralDp(_) => None,
    }
}

/// Fills 32 bytes that nobody can guess. The operating system's generator in every node; the simulator has its own, to
/// repeat a run.
pub type Draw = Box<dyn FnMut() -> Result<[u8; 32], String> + Send>;

/// 32 bytes of the operating system's generator.
pub fn os_bytes() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// An update in the clear, which waits to be masked.
pub(crate) struct Held {
    pub round: Round,
    pub update: Vec<f32>,
    pub report: TrainReport,
}

/// This member's part in the sums of a session.
pub(crate) struct SumBench {
    me: PeerId,
    pub config: SecureSumConfig,
    dimension: u32,
    pub held: Option<Held>,
    /// The sum that this member has keys for.
    member: Option<([u8; 32], Member)>,
    pub draw: Draw,
}

impl SumBench {
    pub fn new(me: PeerId, config: SecureSumConfig, dimension: usize) -> Self {
        Self {
            me,
            config,
            dimension: u32::try_from(dimension).unwrap_or(u32::MAX),
            held: None,
            member: None,
            draw: Box::new(os_bytes),
        }
    }

    /// Forgets all secrets, and an update that waits.
    pub fn forget(&mut self) {
        (self.held, self.member) = (None, None);
    }

    fn plan(&self, scope: &SumScope) -> SumPlan {
        let members = scope.members.len().min(255);
        SumPlan {
            threshold: scope.threshold,
            ..self
                .config
                .plan(scope.context, members, self.dimension, scope.groups.clone())
        }
    }

    /// Fresh keys for this sum; those of an earlier one are gone.
    pub fn keys(&mut self, scope: &SumScope) -> Result<SumResult, TaskFailure> {
        let seed = SumSeed::from_os_bytes((self.draw)().map_err(TaskFailure::Environment)?);
        let index = index_of(scope, &self.me).map_err(environment)?;
        let member = Member::new(self.plan(scope), index, seed).map_err(environment)?;
        let keys = bytes_of_advert(&member.advert());
        self.member = Some((scope.context, member));
        Ok(SumResult::Keys(keys))
    }

    fn member(&mut self, scope: &SumScope) -> Result<&mut Member, TaskFailure> {
        let of_sum = self.member.as_mut().filter(|(context, _)| *context == scope.context);
        let gone =
            || TaskFailure::Unusable("this member's secrets of that sum are gone: it has dropped out".to_owned());
        of_sum.map(|(_, member)| member).ok_or_else(gone)
    }

    /// Shares of this member's secrets for each other of `keys`. Keys that are none, which nobody can share with, name their
    /// owner.
    pub fn share(&mut self, scope: &SumScope, keys: &[Sealed]) -> Result<SumResult, TaskFailure> {
        if let Some((owner, _)) = keys.iter().find(|(_, bytes)| bytes.len() != ADVERT_BYTES) {
            return Ok(SumResult::Spoilt(*owner));
        }
        let adverts = adverts(scope, keys).map_err(unusable)?;
        let shares = match self.member(scope)?.share(&KeyRoster { adverts }) {
            Err(SecureSumError::WeakKey { member }) => {
                return Ok(SumResult::Spoilt(scope.members[usize::from(member)]));
            }
            shares => shares.map_err(unusable)?,
        };
        let sealed = shares.sealed.iter();
        let sealed = sealed.map(|share| (scope.members[usize::from(share.peer)], bytes_of_share(share)));
        Ok(SumResult::Shares(sealed.collect()))
    }

    /// The held update, masked: its bytes. A share that cannot be opened names its dealer.
    pub fn mask(&mut self, scope: &SumScope, sealed: &[Sealed]) -> Result<Result<Vec<u8>, PeerId>, TaskFailure> {
        let held = self.held.take().filter(|held| held.round == scope.round);
        let held =
            held.ok_or_else(|| TaskFailure::Unusable("no update of this round is here to be masked".to_owned()))?;
        let masked = self.mask_held(scope, sealed, &held);
        // The same update may be masked again, in a later term, with other masks.
        self.held = Some(held);
        masked
    }

    fn mask_held(
        &mut self,
        scope: &SumScope,
        sealed: &[Sealed],
        held: &Held,
    ) -> Result<Result<Vec<u8>, PeerId>, TaskFailure> {
        let noise = match self.config.noise {
            Some(_) => Some(NoiseSeed::from_os_bytes(
                (self.draw)().map_err(TaskFailure::Environment)?,
            )),
            None => None,
        };
        let weight = u32::try_from(held.report.tokens)
            .unwrap_or(u32::MAX)
            .clamp(1, self.config.max_weight);
        let delivery = delivery(scope, &self.me, sealed).map_err(unusable)?;
        match self.member(scope)?.mask(&delivery, &held.update, weight, noise) {
            Ok((input, _)) => Ok(Ok(input.to_bytes())),
            Err(SecureSumError::MalformedShare { dealer: member } | SecureSumError::WeakKey { member }) => {
                Ok(Err(scope.members[usize::from(member)]))
            }
            Err(error) => Err(unusable(error)),
        }
    }

    /// The shares that a request asks for.
    pub fn answer(&mut self, scope: &SumScope, request: &SumRequest) -> Result<SumResult, TaskFailure> {
        let request = indexed(scope, request).map_err(unusable)?;
        let reply = self.member(scope)?.unmask(&request).map_err(unusable)?;
        Ok(SumResult::Answered(SumReply {
            of_survivors: reply.seed_shares,
            of_dropped: reply.key_shares,
        }))
    }

    /// As the coordinator: the secrets that the replies share.
    pub fn open(
        &self,
        scope: &SumScope,
        keys: &[Sealed],
        request: &SumRequest,
        replies: &[(PeerId, SumReply)],
    ) -> Result<SumResult, TaskFailure> {
        let adverts = adverts(scope, keys).map_err(unusable)?;
        let request = indexed(scope, request).map_err(unusable)?;
        let reply = |(peer, reply): &(PeerId, SumReply)| {
            Ok(UnmaskReply {
                member: index_of(scope, peer)?,
                seed_shares: reply.of_survivors.clone(),
                key_shares: reply.of_dropped.clone(),
            })
        };
        let replies: Vec<UnmaskReply> = replies.iter().map(reply).collect::<Result<_, _>>().map_err(unusable)?;
        match open_sum(&self.plan(scope), &adverts, &request, &replies) {
            Ok(Opening { seeds, mask_keys }) => Ok(SumResult::Opened { seeds, mask_keys }),
            Err(SecureSumError::WrongShares { owner }) => Ok(SumResult::Spoilt(scope.members[usize::from(owner)])),
            Err(error) => Err(unusable(error)),
        }
    }

    /// The means behind masked payloads of these members, in their order: of all, or of each group. One payload is in memory
    /// at a time.
    pub fn means(
        &self,
        open: &OpenSum,
        survivors: &[PeerId],
        payload: &mut dyn FnMut(usize) -> Result<Vec<u8>, TaskFailure>,
    ) -> Result<Vec<GroupMean>, TaskFailure> {
        let (scope, plan) = (&open.scope, self.plan(&open.scope));
        let adverts = adverts(scope, &open.keys).map_err(unusable)?;
        let indices: Vec<u8> = survivors
            .iter()
            .map(|peer| index_of(scope, peer))
            .collect::<Result<_, _>>()
            .map_err(unusable)?;
        let opening = Opening {
            seeds: open.seeds.clone(),
            mask_keys: open.mask_keys.clone(),
        };
        let mut sum = OpenedSum::new(&plan, &adverts, &indices, &opening).map_err(unusable)?;
        for at in 0..survivors.len() {
            let input = MaskedInput::from_bytes(&payload(at)?, &plan).map_err(unusable)?;
            sum.add(&input).map_err(unusable)?;
        }
        sum.means().map_err(unusable)
    }
}

fn environment(error: SecureSumError) -> TaskFailure {
    TaskFailure::Environment(error.to_string())
}

pub(crate) fn unusable(error: SecureSumError) -> TaskFailure {
    TaskFailure::Unusable(error.to_string())
}

fn index_of(scope: &SumScope, peer: &PeerId) -> Result<u8, SecureSumError> {
    let index = scope.members.iter().position(|member| member == peer);
    let index = index.and_then(|index| u8::try_from(index).ok());
    index.ok_or(SecureSumError::UnknownMember { member: u8::MAX })
}

fn indexed(scope: &SumScope, request: &SumRequest) -> Result<UnmaskRequest, SecureSumError> {
    let indices = |peers: &[PeerId]| peers.iter().map(|peer| index_of(scope, peer)).collect::<Result<_, _>>();
    Ok(UnmaskRequest {
        survivors: indices(&request.survivors)?,
        dropped: indices(&request.dropped)?,
    })
}

/// A member's keys and its commitment, as they travel.
const ADVERT_BYTES: usize = 96;

/// Keys as they travel: channel key, mask key, commitment to the seed; [`ADVERT_BYTES`].
fn bytes_of_advert(advert: &KeyAdvert) -> Vec<u8> {
    [advert.channel_key, advert.mask_key, advert.seed_commitment].concat()
}

fn adverts(scope: &SumScope, keys: &[Sealed]) -> Result<Vec<KeyAdvert>, SecureSumError> {
    let one = |(peer, bytes): &Sealed| {
        let (parts, rest) = bytes.as_chunks::<32>();
        let ([channel_key, mask_key, seed_commitment], []) = (parts, rest) else {
            return Err(SecureSumError::NotCanonical);
        };
        Ok(KeyAdvert {
            member: index_of(scope, peer)?,
            channel_key: *channel_key,
            mask_key: *mask_key,
            seed_commitment: *seed_commitment,
        })
    };
    keys.iter().map(one).collect()
}

/// A pair of sealed shares as it travels: of the seed, of the mask key, tag; 80 bytes.
fn bytes_of_share(share: &SealedShare) -> Vec<u8> {
    [&share.seed_share[..], &share.key_share, &share.tag].concat()
}

/// What was sealed for this member. Bytes of another length are a share that does not open: they name their dealer.
fn delivery(scope: &SumScope, me: &PeerId, sealed: &[Sealed]) -> Result<ShareDelivery, SecureSumError> {
    let one = |(peer, bytes): &Sealed| {
        let (mut seed_share, mut key_share, mut tag) = ([0; 32], [0; 32], [0; 16]);
        if bytes.len() == 80 {
            seed_share.copy_from_slice(&bytes[..32]);
            key_share.copy_from_slice(&bytes[32..64]);
            tag.copy_from_slice(&bytes[64..]);
        }
        Ok(SealedShare {
            peer: index_of(scope, peer)?,
            seed_share,
            key_share,
            tag,
        })
    };
    Ok(ShareDelivery {
        member: index_of(scope, me)?,
        sealed: sealed.iter().map(one).collect::<Result<_, _>>()?,
    })
}
