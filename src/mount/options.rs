//! Mount options: what an operator may ask for, as an allow-list.
