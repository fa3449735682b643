"""The rules, as a pure function of a lane, an event and the time. Only `keylane.schemas` may be imported here.

`step` has the table; `lane` the state and its one way to change (`standing`, `ordered`, `seats` and `timers` are what
its indexes are made of). `arrival` reads as the rules that a work request meets, one module each: `shape`, `repeats`,
`coalescing`, `contention`, `bounds`. `transitions`, `endings`, `dispatch` and `sessions` have what happens later;
`answers` and `describe` how it is said; `projections` what follows from events; `policy` what a configuration can
choose.
"""
