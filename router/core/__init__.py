"""The rules, as a pure function of a lane, an event and the time. Only `keylane.schemas` may be imported here.

`step` has the table; `lane` the state and its one way to change, `standing` what its indexes go by; `arrival`,
`transitions`, `endings`, `dispatch` and `sessions` the rules; `projections` what follows from events; `policy` what a
configuration can choose.
"""
