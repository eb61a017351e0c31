"""The recurrent baselines: LSTM, GRU and no memory at all."""
