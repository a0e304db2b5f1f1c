"""How surprising: distances to the nominal database, and what nominal data says about them."""
