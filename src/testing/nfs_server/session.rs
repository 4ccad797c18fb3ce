//! Clients and their sessions (RFC 8881, section 2.10): a request is carried out once, and its answer remembered.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::state::Held;
use super::{Done, Refused};
use crate::nfs4::codes::Code;

/// How long the state of a client is kept that the server does not hear of.
pub const LEASE: Duration = Duration::from_secs(90);
/// The most requests of a session at a time.
pub const SLOTS: u32 = 4;

const SEQ_MISORDERED: Code = Code(10_063);
const BADSLOT: Code = Code(10_053);
const CLIENTID_BUSY: Code = Code(10_074);

pub(super) type SessionId = [u8; 16];

/// The clients and sessions that the server knows.
#[derive(Default)]
pub(super) struct Sessions {
    /// The last number that was given to a client, a session or a state. None is given twice.
    last: u64,
    clients: BTreeMap<u64, Client>,
    sessions: BTreeMap<SessionId, Session>,
}

struct Client {
    owner: Vec<u8>,
    verifier: [u8; 8],
    /// The sequence of the next CREATE_SESSION.
    sequence: u32,
    confirmed: bool,
    renewed: Instant,
    held: Held,
}

struct Session {
    client: u64,
    slots: Vec<Slot>,
}

impl Session {
    fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.busy)
    }
}

#[derive(Clone, Default)]
struct Slot {
    /// The sequence of the last request.
    sequence: u32,
    /// Whether it is still carried out.
    busy: bool,
    /// Its answer, if it was to be remembered.
    answer: Option<Vec<u8>>,
}

/// A place in the sequence of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) session: SessionId,
    pub(super) slot: u32,
    pub(super) sequence: u32,
}

/// What SEQUENCE begins.
pub(super) enum Begun {
    /// A new request of this client.
    New(u64),
    /// A request that was carried out before, with its answer if that was to be remembered.
    Again(Option<Vec<u8>>),
}

impl Sessions {
    /// Loses everything.
    pub(super) fn forget(&mut self) {
        self.clients.clear();
        self.sessions.clear();
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// EXCHANGE_ID: a client, and the sequence of its next CREATE_SESSION.
    pub(super) fn exchange_id(&mut self, owner: &[u8], verifier: [u8; 8]) -> (u64, u32) {
        let known = self.clients.iter().find(|(_, client)| (&*client.owner, client.verifier) == (owner, verifier));
        if let Some((id, client)) = known {
            return (*id, client.sequence);
        }
        self.clients.retain(|_, client| client.owner != owner || client.confirmed);
        let id = self.number();
        let (renewed, held) = (Instant::now(), Held::default());
        let client = Client { owner: owner.to_vec(), verifier, sequence: 1, confirmed: false, renewed, held };
        self.clients.insert(id, client);
        (id, 1)
    }

    /// CREATE_SESSION. It confirms the client, and ends a former one of its name with all its state.
    pub(super) fn create_session(&mut self, client_id: u64, sequence: u32, slots: u32) -> Done<SessionId> {
        let client = self.clients.get(&client_id).ok_or(Refused(Code::STALE_CLIENTID))?;
        if client.sequence != sequence {
            return Err(Refused(SEQ_MISORDERED));
        }
        let owner = client.owner.clone();
        let others = |client: &u64| *client != client_id && self.clients[client].owner == owner;
        // Like some servers, this one does not end a client while it works on a request of it.
        if self.sessions.values().any(|session| others(&session.client) && session.is_busy()) {
            return Err(Refused(Code::DELAY));
        }
        let client = self.clients.get_mut(&client_id).ok_or(Refused(Code::STALE_CLIENTID))?;
        client.sequence += 1;
        client.confirmed = true;
        self.keep(|id, client| *id == client_id || client.owner != owner);
        let mut session = [0; 16];
        session[8..].copy_from_slice(&self.number().to_be_bytes());
        let slots = vec![Slot::default(); slots as usize];
        self.sessions.insert(session, Session { client: client_id, slots });
        Ok(session)
    }

    /// Ends the clients that `keep` does not choose.
    fn keep(&mut self, mut keep: impl FnMut(&u64, &Client) -> bool) {
        self.clients.retain(|id, client| keep(id, client));
        self.sessions.retain(|_, session| self.clients.contains_key(&session.client));
    }

    /// SEQUENCE: begins a request, and renews the lease.
    pub(super) fn begin(&mut self, place: Place) -> Done<Begun> {
        let session = self.sessions.get_mut(&place.session).ok_or(Refused(Code::BADSESSION))?;
        let slot = session.slots.get_mut(place.slot as usize).ok_or(Refused(BADSLOT))?;
        let client = self.clients.get_mut(&session.client).ok_or(Refused(Code::BADSESSION))?;
        client.renewed = Instant::now();
        if place.sequence == slot.sequence {
            return if slot.busy { Err(Refused(Code::DELAY)) } else { Ok(Begun::Again(slot.answer.clone())) };
        }
        if slot.busy || place.sequence != slot.sequence.wrapping_add(1) {
            return Err(Refused(SEQ_MISORDERED));
        }
        *slot = Slot { sequence: place.sequence, busy: true, answer: None };
        Ok(Begun::New(session.client))
    }

    /// The request is carried out. Its session may be over meanwhile.
    pub(super) fn finish(&mut self, place: Place, answer: Option<Vec<u8>>) {
        if let Some(session) = self.sessions.get_mut(&place.session) {
            session.slots[place.slot as usize] = Slot { sequence: place.sequence, busy: false, answer };
        }
    }

    /// DESTROY_SESSION.
    pub(super) fn destroy_session(&mut self, session: SessionId) -> Done<()> {
        self.sessions.remove(&session).map(drop).ok_or(Refused(Code::BADSESSION))
    }

    /// DESTROY_CLIENTID.
    pub(super) fn destroy_client(&mut self, client: u64) -> Done<()> {
        if self.sessions.values().any(|session| session.client == client) {
            return Err(Refused(CLIENTID_BUSY));
        }
        self.clients.remove(&client).map(drop).ok_or(Refused(Code::STALE_CLIENTID))
    }

    /// Ends the clients whose lease is over.
    pub(super) fn expire(&mut self) {
        self.keep(|_, client| client.renewed.elapsed() <= LEASE);
    }

    /// The number of files that clients have open.
    pub(super) fn opens(&self) -> usize {
        self.clients.values().map(|client| client.held.opens()).sum()
    }

    /// What a client has open and locked.
    pub(super) fn held(&mut self, client: u64) -> Done<&mut Held> {
        self.clients.get_mut(&client).map(|client| &mut client.held).ok_or(Refused(Code::EXPIRED))
    }
}
