package gateway

// RaceEnabled says whether the race detector is on, to tests outside of the
// package.
const RaceEnabled = raceEnabled
