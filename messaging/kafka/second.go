package kafka

import "time"

const (
	// toSecond is how much of a time in RFC 3339 comes before the fraction of a second.
	toSecond = len("2006-01-02T15:04:05")
	// finest is the longest fraction of a second that is read here.
	finest = len(".999999999")
)

// A second is one of UTC: that of the last record's time, which the next record's mostly
// is of too, if they are many.
type second struct {
	text [toSecond]byte // in RFC 3339
	at   time.Time      // when it began
}

// read returns what time.Parse returns for [time.RFC3339Nano], and whether it is no
// error. It asks time.Parse, save for another moment of the second that it was asked for
// last: to read all of a time took a twentieth of all that is done for a message.
func (s *second) read(value []byte) (time.Time, bool) {
	zone := len(value) - 1
	utc := zone >= toSecond && value[zone] == 'Z'
	if utc && [toSecond]byte(value) == s.text && !s.at.IsZero() {
		if d, ok := fraction(value[toSecond:zone]); ok {
			return s.at.Add(d), true
		}
	}
	at, err := time.Parse(time.RFC3339Nano, string(value))
	if err != nil {
		return time.Time{}, false
	}
	if utc {
		if d, ok := fraction(value[toSecond:zone]); ok {
			s.text, s.at = [toSecond]byte(value), at.Add(-d)
		}
	}
	return at, true
}

// fraction returns the part of a second that text is in RFC 3339, point included, and
// whether it is one, with no more digits than nanoseconds have.
func fraction(text []byte) (time.Duration, bool) {
	if len(text) == 0 {
		return 0, true
	}
	if text[0] != '.' || len(text) == 1 || len(text) > finest {
		return 0, false
	}
	d := time.Duration(0)
	for _, c := range text[1:] {
		if c < '0' || c > '9' {
			return 0, false
		}
		d = 10*d + time.Duration(c-'0')
	}
	for range finest - len(text) {
		d *= 10
	}
	return d, true
}
