"""AdViSe: a temporal module over frozen dense maps, pre-trained on playback rate and fine-tuned on labels."""
