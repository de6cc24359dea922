"""The other side of a switch: the guard's, which follows, and the operator's, which orders."""
