package sqs

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/parley-go/parley/messaging"
)

// A fault is what the service has against a request or one entry of it.
type fault struct {
	code, text string
	status     int  // of the HTTP answer, 0 for an entry
	sender     bool // it will not do better when repeated
}

// faultOf returns what an answer of the service says, or nil when err is not an
// answer.
func faultOf(err error) *fault {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return nil
	}
	f := &fault{code: shortCode(api.ErrorCode()), text: api.ErrorMessage()}
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		f.status = r.HTTPStatusCode()
	}
	f.sender = f.status >= 400 && f.status < 500
	return f
}

// shortCode returns a code without the name space that some answers have.
func shortCode(code string) string {
	code = code[strings.LastIndexByte(code, '#')+1:]
	return strings.TrimPrefix(code, "AWS.SimpleQueueService.")
}

func isOneOf(code string, codes ...string) bool { return slices.Contains(codes, code) }

// unsigned reports that the service does not know or believe who asks. What such
// an answer says may repeat what was signed, a session token among it.
func (f *fault) unsigned() bool {
	text := strings.ToLower(f.text)
	return isOneOf(strings.TrimSuffix(f.code, "Exception"), "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClient", "ExpiredToken",
		"InvalidSecurity", "InvalidSecurityToken", "MissingAuthenticationToken", "IncompleteSignature", "InvalidSignature", "InvalidAccessKeyId",
		"RequestExpired", "RequestTimeTooSkewed", "OptInRequired") ||
		strings.Contains(text, "x-amz-security-token") || strings.Contains(text, "aws4-hmac")
}

func (f *fault) denied() bool {
	return f.unsigned() || f.status == http.StatusForbidden || strings.HasPrefix(f.code, "AccessDenied") ||
		isOneOf(f.code, "AuthorizationError", "AuthorizationErrorException", "KmsAccessDenied", "KMS.AccessDeniedException", "KMSAccessDenied", "KMSAccessDeniedException", "UnauthorizedOperation")
}

// busy reports that the service asks to come back later.
func (f *fault) busy() bool {
	return strings.Contains(f.code, "Throttl") || isOneOf(f.code, "RequestThrottled", "TooManyRequestsException", "SlowDown", "OverLimit", "ServiceUnavailable",
		"InternalError", "InternalFailure", "InternalErrorException", "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete") ||
		f.status == http.StatusTooManyRequests || f.status == http.StatusRequestTimeout || f.status >= 500
}

// absent reports that the queue or topic does not exist.
func (f *fault) absent() bool {
	return isOneOf(f.code, "QueueDoesNotExist", "NonExistentQueue", "NotFound", "NotFoundException", "ResourceNotFoundException")
}

// lost reports that a receipt is good for nothing any more.
func (f *fault) lost() bool {
	if isOneOf(f.code, "ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidReceiptHandle") {
		return true
	}
	text := strings.ToLower(f.text)
	return isOneOf(f.code, "InvalidParameterValue", "InvalidParameterValueException") &&
		(strings.Contains(text, "receipt handle") || strings.Contains(text, "receipthandle") || strings.Contains(text, "not available for visibility timeout"))
}

func (f *fault) tooLarge() bool {
	text := strings.ToLower(f.text)
	return isOneOf(f.code, "BatchRequestTooLong", "MessageTooLong", "BatchRequestTooLongException") || f.status == http.StatusRequestEntityTooLarge ||
		f.sender && (strings.Contains(text, "must be shorter than") || strings.Contains(text, "too long") || strings.Contains(text, "message too large"))
}

// reason returns the error of package messaging that f is, or nil when the same
// request may do better later.
func (f *fault) reason() error {
	switch {
	case f.unsigned():
		return fmt.Errorf("%w: %s: check the credentials, their session and the clock of this machine", messaging.ErrDenied, f.code)
	case f.denied():
		return fmt.Errorf("%w: %s: %s", messaging.ErrDenied, f.code, f.text)
	case f.absent():
		return fmt.Errorf("%w: %s: %s", messaging.ErrNotFound, f.code, f.text)
	case f.lost():
		return fmt.Errorf("%w: %s: %s", messaging.ErrLost, f.code, f.text)
	case f.tooLarge():
		return fmt.Errorf("%w: %s: %s", messaging.ErrTooLarge, f.code, f.text)
	case f.busy() || !f.sender:
		return nil
	}
	return fmt.Errorf("%w: %s: %s", messaging.ErrInvalid, f.code, f.text)
}

// permanent returns the reason for which err will not go away, or nil.
func permanent(err error) error {
	if f := faultOf(err); f != nil {
		return f.reason()
	}
	if isPermanent(err) {
		return err
	}
	return nil
}

// isPermanent reports whether trying again cannot mend err.
func isPermanent(err error) bool {
	return errors.Is(err, messaging.ErrDenied) || errors.Is(err, messaging.ErrTopology) || errors.Is(err, messaging.ErrInvalid) ||
		errors.Is(err, messaging.ErrNotFound) || errors.Is(err, messaging.ErrClosed)
}

// unsent reports that the request behind err has not been carried out: the service
// refused it, or was never reached.
func unsent(err error) bool {
	if f := faultOf(err); f != nil {
		return f.status < 500
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// told returns err as logs and callers may see it.
func told(err error) error {
	switch f := faultOf(err); {
	case err == nil:
		return nil
	case f == nil:
		return err
	case f.unsigned():
		return errors.New(f.code)
	default:
		return fmt.Errorf("%s: %s", f.code, f.text)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
