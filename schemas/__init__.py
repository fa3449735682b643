"""The language of keylane: one file a topic, and the codec. Imports msgspec, yarl and the standard library only."""
