"""What a run reads: clips and sets of clips out of a store, and views out of videos."""
