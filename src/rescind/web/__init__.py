"""What our HTTP servers share: who may ask, how much and how often, how a refusal looks, and how one listens."""
