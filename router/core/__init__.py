"""The rules, as a pure function of a lane, an event and the time. Only `keylane.schemas` may be imported here.

`step` has the table; `lane` the state and its one way to change, which `placing`, `standing`, `ordered`, `seats` and
`timers` carry out. `arrival` reads as the rules that a work request meets, one module each: `shape`, `repeats`,
`versions`, `coalescing`, `order`, `contention`, `bounds`. `transitions`, `endings`, `dispatch`, `resources`,
`retention`, `changes`, `reviews` and `sessions` have what happens later; `answers` and `describe` how it is said;
`projections` what follows from events; `policy` what a configuration can choose.
"""
