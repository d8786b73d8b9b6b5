// Package sqs is a [messaging.Broker] on Amazon SQS and SNS.
package sqs
