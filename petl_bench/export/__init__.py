"""What other programs take from a trained model: features of videos, its two towers, a backbone with what it learnt."""
